import { lookup } from 'node:dns/promises';
import { chmod, mkdir, stat } from 'node:fs/promises';
import { type AddressInfo, connect, isIPv6 } from 'node:net';
import { dirname } from 'node:path';
import { ApiError } from '@forkd/api';
import { errnoOf, removeFile } from '@forkd/store';
import type { FastifyInstance } from 'fastify';
import { messageOf } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Address } from '../option-table.ts';
import { type Options, isLoopback } from '../options.ts';
import type { Served } from '../port-domain.ts';
import { UsageError } from '../usage-error.ts';
import type { AppParts, Backend, Ingress } from './app-parts.ts';
import { buildApp } from './app.ts';
import { buildE2bApp } from './e2b.ts';
import { Signals } from './signals.ts';
import { Tickets } from './tickets.ts';
import { Traffic } from './traffic.ts';
import { Upgrades } from './upgrades.ts';
import type { HostNames } from './web-guard.ts';

/** The listeners: a unix socket for the owner, and a TCP port. */
export class HttpServers {
  readonly #backend: Backend;
  readonly #ingress: Ingress;
  readonly #signals = new Signals();
  readonly #traffic = new Traffic();
  readonly #tickets = new Tickets();
  readonly #upgrades = new Upgrades();
  readonly #apps: FastifyInstance[] = [];

  constructor(backend: Backend, ingress: Ingress) {
    this.#backend = backend;
    this.#ingress = ingress;
  }

  async listen({ socket, bind }: Pick<Options, 'socket' | 'bind'>): Promise<void> {
    const { bounds, log, ports, tls } = this.#ingress;
    await clearSocket(socket);
    // No other user may connect in the moment between the creation of the socket and its chmod.
    const umask = process.umask(0o177);
    try {
      await this.#app('socket').listen({ path: socket, backlog: bounds.connectionsMax });
    } finally {
      process.umask(umask);
    }
    await chmod(socket, 0o600);
    log.info({ socket }, 'listening');
    if (bind === null) return;
    if (tls === null && !isLoopback(bind.host)) {
      log.warn({ host: bind.host }, 'the port has no TLS: tokens can be read on their way to it');
    }
    await this.#listenOnPort(
      '--bind',
      bind,
      () => this.#app('tcp'),
      (served, address) => {
        ports.serve(served);
        log.info({ address }, 'listening');
      },
    );
  }

  /** Serves E2B's wire on a port of its own. `hosts` are the names by which it may be called. */
  async listenForE2b(address: Address, hosts: HostNames, secret: Uint8Array): Promise<void> {
    const make = (): FastifyInstance => {
      const app = buildE2bApp({ ...this.#parts('tcp'), hosts }, secret);
      this.#apps.push(app);
      return app;
    };
    await this.#listenOnPort('--e2b', address, make, (_served, e2b) => this.#ingress.log.info({ e2b }, 'listening'));
  }

  /** A name may stand for several addresses, and the host may lack some of them ('localhost'). Serving one is enough. */
  async #listenOnPort(
    option: string,
    { host: name, port }: Address,
    make: () => FastifyInstance,
    onListening: (served: Served, url: string) => void,
  ): Promise<void> {
    const addresses = await lookup(name, { all: true }).catch((error: unknown) => {
      throw cannotServe(option, name, port, error);
    });
    const failures: unknown[] = [];
    for (const { address: host } of addresses) {
      const app = make();
      try {
        await app.listen({ host, port, backlog: this.#ingress.bounds.connectionsMax });
      } catch (error) {
        if (errnoOf(error) !== 'EADDRNOTAVAIL') throw cannotServe(option, name, port, error);
        failures.push(error);
        continue;
      }
      const { port: actual } = app.server.address() as AddressInfo;
      const authority = `${isIPv6(host) ? `[${host}]` : host}:${actual}`;
      const scheme = this.#ingress.tls === null ? 'http' : 'https';
      onListening({ scheme, port: actual }, `${scheme}://${authority}`);
    }
    if (failures.length === addresses.length) throw cannotServe(option, name, port, failures[0]);
  }

  /** Time since a request was last under way, or since `touch`. */
  idleMs(): number {
    return this.#traffic.idleMs();
  }

  touch(): void {
    this.#traffic.touch();
  }

  /** Takes no more requests, and waits a limited time for those under way. Streams end at once. */
  async close(): Promise<void> {
    const reason = new ApiError('shutting_down', 'The controller is ending.');
    this.#signals.drain(reason);
    const timer = setTimeout(() => this.#signals.cut(reason), limits.drainMs);
    // A connection whose last reply goes out now would be kept alive for its next request, and one that has never had a
    // request does not count as idle.
    const sweep = setInterval(() => {
      for (const { server } of this.#apps) {
        if (this.#traffic.inFlight === 0) server.closeAllConnections();
        else server.closeIdleConnections();
      }
    }, limits.drainSweepMs);
    try {
      await Promise.all(this.#apps.map((app) => app.close()));
    } finally {
      clearTimeout(timer);
      clearInterval(sweep);
    }
  }

  #app(listener: 'socket' | 'tcp'): FastifyInstance {
    const app = buildApp(this.#parts(listener));
    this.#apps.push(app);
    return app;
  }

  #parts(listener: AppParts['listener']): AppParts {
    return {
      ...this.#backend,
      ...this.#ingress,
      signals: this.#signals,
      traffic: this.#traffic,
      tickets: this.#tickets,
      upgrades: this.#upgrades,
      listener,
    };
  }
}

function cannotServe(option: string, host: string, port: number, cause: unknown): UsageError {
  const why = errnoOf(cause) === 'EADDRINUSE' ? 'another program listens there' : messageOf(cause);
  return new UsageError(`${option} ${host}:${port} cannot be served: ${why}.`, { cause });
}

/** Removes the socket that a killed controller left. A socket on which a program answers belongs to that program. */
async function clearSocket(path: string): Promise<void> {
  const dir = dirname(path);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const { mode } = await stat(dir);
  // The mode of the socket controls who may connect. The mode of its directory controls who may replace it.
  if ((mode & 0o022) !== 0 && (mode & 0o1000) === 0) {
    throw new UsageError(`--socket '${path}': others can write to its directory; chmod go-w mends that.`);
  }
  const answered = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
  if (answered) throw new UsageError(`Another program listens on ${path}. Give --socket another path.`);
  await removeFile(path);
}
