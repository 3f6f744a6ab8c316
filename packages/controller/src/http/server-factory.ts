import { type IncomingMessage, type RequestListener, type Server, type ServerResponse, createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Socket } from 'node:net';
import type { limits } from '../limits.ts';
import { answerConnect } from './errors.ts';
import { requestClass } from './ports/calls.ts';
import type { PortHosts } from './ports/hosts.ts';
import type { TlsFiles } from './tls.ts';

/** Bounds of the cost of one connection. Tests use smaller ones. */
export type HttpBounds = { [Name in keyof (typeof limits)['http']]: number };

interface Exchange {
  request: IncomingMessage;
  response: ServerResponse;
}

/** A server that closes connections which stall. */
export function makeServer(
  handler: RequestListener,
  bounds: HttpBounds,
  tls: TlsFiles | null,
  ports: PortHosts | null,
  onRefused: () => void,
): Server {
  const options = {
    ...(ports !== null && { IncomingMessage: requestClass(ports) }),
    maxHeaderSize: bounds.headerBytesMax,
    headersTimeout: bounds.headersTimeoutMs,
    // An upload may take any time, as long as bytes arrive.
    requestTimeout: 0,
    keepAliveTimeout: bounds.keepAliveMs,
    connectionsCheckingInterval: bounds.checkMs,
    // Node would refuse such a request with an empty body; the app says what is missing.
    requireHostHeader: false,
  };
  const server =
    tls === null
      ? createServer(options, handler)
      : createTlsServer({ ...options, ...tls.context, handshakeTimeout: bounds.headersTimeoutMs }, handler);
  if (tls !== null) tls.serve(server);
  server.maxConnections = bounds.connectionsMax;
  server.on('drop', onRefused);
  // Unknown expectations may be ignored, but Node would refuse them with an empty body.
  server.on('checkExpectation', handler);
  server.on('connect', answerConnect);
  endStalled(server, bounds.stallMs);
  return server;
}

/**
 * Ends connections on which nothing has moved for a while although it is the caller's turn. A caller who waits for the
 * controller, such as for the end of a command, may wait as long as that takes.
 */
function endStalled(server: Server, stallMs: number): void {
  const exchanges = new WeakMap<Socket, Exchange>();
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    exchanges.set(request.socket, { request, response });
  });
  server.setTimeout(stallMs, (socket) => {
    const exchange = exchanges.get(socket);
    // The timer restarts whenever bytes move, so none have moved.
    if (exchange !== undefined && waitsForUs(exchange, socket)) socket.setTimeout(stallMs);
    else socket.destroy();
  });
}

function waitsForUs({ request, response }: Exchange, socket: Socket): boolean {
  if (response.writableFinished) return false;
  // Unread bytes of the request hold up the rest, so the controller is the one to act.
  if (!request.complete && request.readableLength === 0) return false;
  return response.writableLength === 0 && socket.writableLength === 0;
}
