import { PTY_TICKET_PREFIX } from '@forkd/api/constants';
import { collectBytes } from './bytes.ts';
import { ForkdError } from './errors.ts';
import type { FetchInit, PlatformFetch, ReplyLike, WebSocketInit, WebSocketLike } from './fetch-types.ts';

/** The time to connect. The controller is on this host or near it, so a slower one counts as absent. */
const CONNECT_TIMEOUT_MS = 10_000;

/**
 * The time that an idle connection is kept for the next request. The controller keeps connections far longer, so no request
 * uses a connection that the controller is about to close.
 */
const IDLE_MS_MAX = 10_000;

/** The environment of the process, empty in a browser. */
export function environment(): Readonly<Record<string, string | undefined>> {
  return typeof process === 'object' ? process.env : {};
}

/**
 * Picks Node's own HTTP for a unix socket, undici for TCP and TLS in Node, and the platform's `fetch` elsewhere.
 * Each is loaded by the first request that needs it: loading undici takes longer than a short command.
 */
export async function openPlatformFetch(socket: string | undefined): Promise<PlatformFetch> {
  if (socket !== undefined) return openSocketFetch(socket);
  const undici = isNode() ? await import('undici') : undefined;
  // Bundles for browsers have an empty module in place of undici, even if they run in something like Node.
  if (typeof undici?.Agent !== 'function') return { fetch: webFetch, webSocket: pageSocket, close: async () => {} };
  // The client has its own deadline per call. Undici's would end a followed command after five silent minutes.
  const agent = new undici.Agent({
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveMaxTimeout: IDLE_MS_MAX,
    connect: { timeout: CONNECT_TIMEOUT_MS },
  });
  return {
    fetch: (url, init) => undici.fetch(url, { ...init, dispatcher: agent }),
    webSocket: (url, init) => openNodeSocket(url, init, undefined),
    close: () => agent.close(),
  };
}

/**
 * Reaches the controller that nobody named. In Node it is the one of this user's data directory, as `forkd` finds or starts it.
 * In a page it is the one at the default port.
 */
export async function openDefaultFetch(token: string | undefined): Promise<PlatformFetch & { place?: string }> {
  const module = isNode() ? await import('./local/ensure.ts') : undefined;
  if (typeof module?.openLocalFetch !== 'function') return openPlatformFetch(undefined);
  return module.openLocalFetch({ socket: environment()['FORKD_SOCKET'] || undefined, token, autostart: true });
}

async function openSocketFetch(socket: string): Promise<PlatformFetch> {
  const module = isNode() ? await import('./unix-fetch.ts') : undefined;
  if (typeof module?.openUnixFetch === 'function') return module.openUnixFetch(socket, IDLE_MS_MAX);
  throw new ForkdError('bad_request', `The unix socket ${socket} cannot be reached from here.`, {
    hint: 'Unix sockets need Node.js; give the http:// or https:// address of the controller.',
  });
}

/** A WebSocket of Node, over a unix socket if one is named. */
export async function openNodeSocket(
  url: string,
  { protocol, headers }: WebSocketInit,
  socketPath: string | undefined,
): Promise<WebSocketLike> {
  const { Agent, WebSocket } = await import('undici');
  const dispatcher = new Agent({
    connect: { timeout: CONNECT_TIMEOUT_MS, ...(socketPath !== undefined && { socketPath }) },
  });
  const socket = new WebSocket(url.replace(/^http/, 'ws'), { protocols: [protocol], headers, dispatcher });
  socket.addEventListener('close', () => {
    dispatcher.close().catch(() => {});
  });
  return socket;
}

/** A WebSocket of a page, which can name subprotocols, but no headers. */
async function pageSocket(url: string, { protocol, headers, ticket }: WebSocketInit): Promise<WebSocketLike> {
  const protocols = [protocol];
  if (headers['authorization'] !== undefined) protocols.push(`${PTY_TICKET_PREFIX}${await ticket()}`);
  return new globalThis.WebSocket(url.replace(/^http/, 'ws'), protocols);
}

function isNode(): boolean {
  return typeof process === 'object' && process.versions?.node !== undefined;
}

async function webFetch(url: string, { method, headers, signal, body }: FetchInit): Promise<ReplyLike> {
  const request: RequestInit = { method, headers, signal };
  // Browsers cannot stream a request body over HTTP/1.1, so the body is sent in one piece.
  if (body !== undefined) request.body = typeof body === 'string' ? body : await pieceOf(body);
  const reply = await globalThis.fetch(url, request);
  return {
    status: reply.status,
    headers: reply.headers,
    body: reply.body === null ? null : chunksOf(reply.body),
    text: () => reply.text(),
    arrayBuffer: () => reply.arrayBuffer(),
  };
}

async function pieceOf(body: Uint8Array | AsyncIterable<Uint8Array>): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = Symbol.asyncIterator in body ? await collectBytes(body) : body;
  return bytes as Uint8Array<ArrayBuffer>;
}

/** Iterates over a stream, which some browsers cannot do by themselves. The request ends if the reader stops early. */
async function* chunksOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
