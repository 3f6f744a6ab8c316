import { isIP } from 'node:net';
import { hostname } from 'node:os';
import { ApiError } from '@forkd/api';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type Options, isLoopback } from '../options.ts';
import { excerpt } from './excerpt.ts';
import { portCallOf } from './ports/calls.ts';
import { keepPagesOffPort } from './ports/guard.ts';
import type { PortHosts } from './ports/hosts.ts';
import { whereOf } from './request-id.ts';
import type { TlsFiles } from './tls.ts';

/**
 * Names and addresses by which a caller of the port may mean this controller. The name of a web page is never among them,
 * even if its owner makes it resolve to this host.
 */
export class HostNames {
  readonly #names: ReadonlySet<string>;
  readonly #onlyLoopback: boolean;
  readonly #tls: Pick<TlsFiles, 'covers'> | null;

  constructor({ bind, allowHosts }: Pick<Options, 'bind' | 'allowHosts'>, tls: Pick<TlsFiles, 'covers'> | null) {
    this.#onlyLoopback = bind === null || isLoopback(bind.host);
    const own = this.#onlyLoopback ? [] : [bind?.host ?? '', hostname()];
    this.#names = new Set([...own, ...allowHosts].map((name) => name.toLowerCase()));
    this.#tls = tls;
  }

  /** `host` is the header of that name. The port is passed over: a tunnel has another, and a page gains nothing by it. */
  has(host: string): boolean {
    const match = /^(?:\[([0-9a-f:.]+)\]|([^:[\]]+))(?::\d{1,5})?$/i.exec(host);
    const name = (match?.[1] ?? match?.[2] ?? '').toLowerCase();
    if (isLoopback(name) || this.#names.has(name)) return true;
    // No name is resolved for a page that is at an address.
    if (isIP(name) !== 0) return !this.#onlyLoopback;
    return this.#tls?.covers(name) ?? false;
  }
}

/**
 * Keeps web pages off the port, whether or not tokens are required. A browser lets any page send requests to this host,
 * but its `Host`, `Origin` and `Sec-Fetch-Site` headers truthfully say where they go and come from. Other programs do not
 * send the last two.
 */
export function keepPagesOut(app: FastifyInstance, names: HostNames, ports: PortHosts | null): void {
  app.addHook('onRequest', async (request) => {
    const { host, origin, 'sec-fetch-site': site } = request.headers;
    const call = portCallOf(request.raw);
    const isNamed = call !== null && call.prefix === null;
    if (host !== undefined && !isNamed && !names.has(host)) {
      throw new ApiError('host_not_allowed', `${whereOf(request)}: this controller is not ${excerpt(host)}.`);
    }
    if (call !== null && ports !== null) {
      keepPagesOffPort(request, call, ports);
      return;
    }
    if (origin !== undefined && !isSameOrigin(origin, host)) throw foreign(request, `of ${excerpt(origin)}`);
    if (site !== undefined && site !== 'same-origin' && site !== 'none') {
      throw foreign(request, `(Sec-Fetch-Site: ${excerpt(site)})`);
    }
  });
}

function foreign(request: FastifyRequest, which: string): ApiError {
  return new ApiError('origin_not_allowed', `${whereOf(request)}: pages ${which} may not call this controller.`);
}

/** Compares authorities only: a proxy in front may use another scheme. */
function isSameOrigin(origin: string, host: string | undefined): boolean {
  const authority = /^https?:\/\/([^/]+)$/i.exec(origin)?.[1];
  return authority !== undefined && authority.toLowerCase() === host?.toLowerCase();
}
