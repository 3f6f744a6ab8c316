import type { FetchInit, FetchLike, ReplyLike } from './connection.ts';
import { collectBytes } from './bytes.ts';
import { ForkdError } from './errors.ts';

/** How requests go out where the caller gave no `fetch` of their own. */
export type PlatformFetch = { fetch: FetchLike; close(): Promise<void> };

/** A connection is there at once or not at all: the controller is on this host or near it. */
const CONNECT_TIMEOUT_MS = 10_000;

/** The environment of the process; a browser has none. */
export function environment(): Readonly<Record<string, string | undefined>> {
  return typeof process === 'object' ? process.env : {};
}

/**
 * How long a connection is kept for the next request: far less than the controller keeps it, so that on a busy host none is
 * used in the moment in which the controller closes it.
 */
const IDLE_MS_MAX = 10_000;

/** undici in Node, which alone can speak over a unix socket; the platform's own `fetch` elsewhere. Loaded when first needed. */
export async function openPlatformFetch(socket: string | undefined): Promise<PlatformFetch> {
  const undici = await loadUndici();
  if (undici === undefined) {
    if (socket === undefined) return { fetch: webFetch, close: async () => {} };
    throw new ForkdError('bad_request', `the unix socket ${socket} cannot be reached from here`, {
      hint: 'unix sockets need Node.js; give the http:// or https:// address of the controller',
    });
  }
  // Deadlines are the client's own, one a call: undici's would end a followed command after five silent minutes.
  const agent = new undici.Agent({
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveMaxTimeout: IDLE_MS_MAX,
    connect: { timeout: CONNECT_TIMEOUT_MS, ...(socket === undefined ? {} : { socketPath: socket }) },
  });
  return {
    fetch: (url, init) => undici.fetch(url, { ...init, dispatcher: agent }),
    close: () => agent.close(),
  };
}

async function loadUndici(): Promise<typeof import('undici') | undefined> {
  if (typeof process !== 'object' || process.versions?.node === undefined) return undefined;
  const undici = await import('undici');
  // A bundle that was made for browsers has an empty module in its place, and may yet run in something like Node.
  return typeof undici.Agent === 'function' ? undici : undefined;
}

async function webFetch(url: string, { method, headers, signal, body }: FetchInit): Promise<ReplyLike> {
  const request: RequestInit = { method, headers, signal };
  // Browsers stream no body upwards over HTTP/1.1, so it goes in one piece.
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

/** Not every browser can iterate over a stream. To stop early ends the request. */
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
