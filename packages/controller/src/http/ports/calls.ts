import { IncomingMessage } from 'node:http';
import { takeSignature } from './access.ts';
import type { GuestPort, PortHosts } from './hosts.ts';

/** A request for a program in a guest, not for the controller. */
export interface PortCall extends GuestPort {
  /** Path and query as the guest gets them. */
  url: string;
  /** The path of the API that leads to the guest's root. `null`: the host name alone stands for the port. */
  prefix: string | null;
  /** The right to call this port alone, which a signed URL shows. It is not in `url`. */
  signature: string | null;
  /** True if the header `Authorization` is for the guest. It is the controller's own unless the token came in another way. */
  passesAuthorization: boolean;
}

const pathOfPort = /^(\/v1\/sandboxes\/([^/?]+)\/ports\/(\d{1,5}))(\/[^#]*)$/;
/** The path of a terminal, which is a WebSocket of the controller's own. */
const pathOfTerminal = /^\/v1\/sandboxes\/[^/?]+\/commands\/[^/?]+\/pty(?:\?|$)/;
const calls = new WeakMap<IncomingMessage, PortCall>();

/** The call that a request is. `null`: the request is for the controller itself. */
export function portCallOf(request: IncomingMessage): PortCall | null {
  return calls.get(request) ?? null;
}

/**
 * The path by which a request is routed. One for a program in a guest gets the same path whatever its own is: that is for the program
 * to understand, and need not be in any log.
 */
export function routedUrl(hosts: PortHosts, request: IncomingMessage): string {
  const call = readCall(hosts, request);
  if (call === null) return request.url ?? '/';
  calls.set(request, call);
  return `/v1/sandboxes/${call.sandbox}/ports/${call.port}/`;
}

function readCall(hosts: PortHosts, { url = '/', headers }: IncomingMessage): PortCall | null {
  const byHost = hosts.read(headers.host);
  if (byHost !== null) {
    const asked = takeSignature(url.startsWith('/') ? url : '/');
    return { ...byHost, ...asked, prefix: null, passesAuthorization: false };
  }
  const [, prefix = '', sandbox = '', port, rest = ''] = pathOfPort.exec(url) ?? [];
  if (port === undefined) return null;
  return { sandbox, port: Number(port), url: rest, signature: null, prefix, passesAuthorization: false };
}

/**
 * A request for which Node leaves HTTP only if it opens a WebSocket to a guest or to a terminal. Any other upgrade, such as the `h2c` that some
 * clients offer with each request, is one that a server may ignore.
 */
export function requestClass(hosts: PortHosts): typeof IncomingMessage {
  return class extends IncomingMessage {
    declare upgradeAsked: boolean | null | undefined;

    set upgrade(asked: boolean | null) {
      this.upgradeAsked = asked;
    }

    /** Node asks once the headers are known. */
    get upgrade(): boolean {
      if (this.upgradeAsked !== true) return false;
      if (this.method === 'CONNECT') return true;
      if (this.headers.upgrade?.toLowerCase() !== 'websocket') return false;
      return pathOfTerminal.test(this.url ?? '') || readCall(hosts, this) !== null;
    }
  };
}
