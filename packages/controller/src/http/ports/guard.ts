import { ApiError } from '@forkd/api';
import type { FastifyRequest } from 'fastify';
import { excerpt } from '../excerpt.ts';
import { whereOf } from '../request-id.ts';
import type { PortCall } from './calls.ts';
import type { PortHosts } from './hosts.ts';

/**
 * Keeps web pages away from the ports of guests, as from the API. Pages of one sandbox may call all of its ports, by their host names;
 * and a link may lead to one from anywhere. Below a path of the API no browser is answered: the guest's page would be of the API's
 * origin, and could do what the API can.
 */
export function keepPagesOffPort(request: FastifyRequest, call: PortCall, hosts: PortHosts): void {
  const { host, origin, 'sec-fetch-site': site, 'sec-fetch-mode': mode, 'sec-fetch-dest': dest } = request.headers;
  if (call.prefix !== null) {
    if (origin === undefined && site === undefined) return;
    const name = `${call.port}-ID.${hosts.domain}`;
    throw new ApiError(
      'origin_not_allowed',
      `${whereOf(request)}: a browser does not get pages of guests by this path.`,
      {
        hint: `Open the same port at the host name ${name}, with the id of the sandbox.`,
      },
    );
  }
  if (origin !== undefined) {
    const authority = /^https?:\/\/([^/]+)$/i.exec(origin)?.[1]?.toLowerCase();
    if (authority === host?.toLowerCase() || hosts.read(authority)?.sandbox === call.sandbox) return;
    throw foreign(request, `of ${excerpt(origin)}`);
  }
  if (site === undefined || site === 'same-origin' || site === 'none') return;
  const isLink = mode === 'navigate' && dest === 'document' && (request.method === 'GET' || request.method === 'HEAD');
  if (!isLink) throw foreign(request, `(Sec-Fetch-Site: ${excerpt(site)})`);
}

function foreign(request: FastifyRequest, which: string): ApiError {
  return new ApiError('origin_not_allowed', `${whereOf(request)}: pages ${which} may not call this port.`, {
    hint: 'Pages of one sandbox may call its ports by their host names. Links may lead there from anywhere.',
  });
}
