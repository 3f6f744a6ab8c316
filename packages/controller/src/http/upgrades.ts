import { type IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { ApiError, limits, PTY_PROTOCOL } from '@forkd/api';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { type WebSocket, WebSocketServer } from 'ws';
import { whereOf } from './request-id.ts';

/**
 * Turns requests into WebSockets. Such a request passes the same hooks as any other: host names, origins, tokens, the audit log.
 * The route of a request may refuse it with an ordinary reply.
 */
export class Upgrades {
  readonly #server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: limits.ptyMessageBytesMax,
    handleProtocols: (offered) => (offered.has(PTY_PROTOCOL) ? PTY_PROTOCOL : false),
  });
  readonly #waiting = new WeakMap<IncomingMessage, Duplex>();
  readonly #requestIds = new WeakMap<IncomingMessage, string>();

  constructor() {
    this.#server.on('headers', (headers, request) =>
      headers.push(`x-request-id: ${this.#requestIds.get(request) ?? ''}`),
    );
  }

  /** Sends the requests that ask for an upgrade through the routes, too: those for terminals, and for ports of guests. */
  serve(app: FastifyInstance): void {
    app.server.on('upgrade', (request, socket, head) => {
      const response = new ServerResponse(request);
      // The server reads no further request from such a connection.
      response.shouldKeepAlive = false;
      response.once('finish', () => socket.end());
      socket.on('error', () => socket.destroy());
      if (head.length > 0) socket.unshift(head);
      response.assignSocket(request.socket);
      this.#waiting.set(request, socket);
      app.routing(request, response);
    });
  }

  /** Completes the handshake. The reply closes when the WebSocket has closed. `null`: the handshake is wrong, or the caller has gone. */
  accept(request: FastifyRequest, reply: FastifyReply): Promise<WebSocket | null> {
    const socket = this.#waiting.get(request.raw);
    if (socket === undefined) {
      throw new ApiError('bad_request', `${whereOf(request)}: the request does not ask for a WebSocket.`, {
        hint: 'Connect with a WebSocket client, or with `forkd attach`.',
      });
    }
    this.#waiting.delete(request.raw);
    this.#requestIds.set(request.raw, request.id);
    request.isUpgraded = true;
    reply.hijack();
    reply.raw.detachSocket(request.raw.socket);
    // A terminal may be idle for as long as its viewer is there, which is asked for.
    request.raw.socket.setTimeout(0);
    socket.once('close', () => reply.raw.emit('close'));
    return new Promise((resolve) => {
      socket.once('close', () => resolve(null));
      this.#server.handleUpgrade(request.raw, socket, Buffer.alloc(0), resolve);
    });
  }
}
