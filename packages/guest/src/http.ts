import {
  connect,
  constants,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
} from 'node:http2';
import type { Duplex } from 'node:stream';

import { disconnected, GuestError } from './errors.ts';
import { connectionWindowBytes, jsonBytesMax, requestTimeoutMsDefault, streamWindowBytes } from './limits.ts';
import { Deadline, type WaitOptions } from './wait.ts';

export type Bytes = Uint8Array | AsyncIterable<Uint8Array>;

export interface RequestOptions {
  query?: Record<string, string | number | boolean | undefined>;
  json?: unknown;
  body?: Bytes | undefined;
  wait?: WaitOptions | undefined;
  /** The answer is a stream of unknown length: no deadline unless the caller gives one. */
  unbounded?: boolean;
}

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders & IncomingHttpStatusHeader;
  /** The body. Leaving the loop early cancels it. Throws a GuestError where it breaks off. */
  chunks(): AsyncGenerator<Uint8Array>;
  /** The whole body as JSON; an empty one is undefined. */
  json(): Promise<unknown>;
}

/** HTTP/2 with the agent, on a channel. */
export class Http {
  readonly #session: ClientHttp2Session;
  /** Fulfilled when the connection has ended, however it did. */
  readonly closed: Promise<void>;

  constructor(channel: Duplex) {
    this.#session = connect('http://guest', {
      createConnection: () => channel,
      settings: { initialWindowSize: streamWindowBytes, enablePush: false },
    });
    this.#session.on('connect', () => {
      // The channel may have closed before this event's turn came.
      if (!this.#session.destroyed) this.#session.setLocalWindowSize(connectionWindowBytes);
    });
    // Whoever waits for something learns it there: the stream of each request fails.
    this.#session.on('error', () => {});
    channel.on('error', () => {});
    this.closed = new Promise((resolve) => {
      this.#session.once('close', resolve);
      channel.once('close', () => this.#session.destroy());
    });
  }

  close(): void {
    this.#session.destroy();
  }

  /** Sends a request and gives its answer, or throws the error that the agent answered with. */
  async request(method: string, path: string, options: RequestOptions = {}): Promise<Answer> {
    if (this.#session.destroyed || this.#session.closed) throw disconnected();
    const defaultMs = options.unbounded ? undefined : requestTimeoutMsDefault;
    const deadline = new Deadline(`${method} ${path}`, options.wait, defaultMs);
    if (deadline.signal.aborted) {
      deadline.release();
      throw deadline.signal.reason;
    }
    const body = options.json === undefined ? options.body : Buffer.from(JSON.stringify(options.json));
    const stream = this.#session.request(
      { ':method': method, ':path': path + queryOf(options.query) },
      { endStream: body === undefined },
    );
    // Whatever arrives is kept until it is asked for, even if the agent has closed the stream by then.
    stream.pause();
    const onAbort = (): void => {
      stream.close(constants.NGHTTP2_CANCEL);
      stream.destroy(deadline.signal.reason as Error);
    };
    deadline.signal.addEventListener('abort', onAbort);
    stream.once('close', () => deadline.release());
    stream.on('error', () => {});
    try {
      const sent = body === undefined ? undefined : send(body, stream);
      const headers = await answerTo(stream);
      const status = headers[':status'] ?? 0;
      const chunks = (): AsyncGenerator<Uint8Array> => this.#chunks(stream, deadline);
      const answer = { status, headers, chunks, json: () => jsonOf(chunks()) };
      if (status >= 400) throw await errorOf(answer);
      await sent;
      return answer;
    } catch (error) {
      throw this.#explain(error, stream, deadline);
    }
  }

  /** A request whose answer is JSON, or nothing. */
  async json(method: string, path: string, options: RequestOptions = {}): Promise<unknown> {
    return (await this.request(method, path, options)).json();
  }

  async *#chunks(stream: ClientHttp2Stream, deadline: Deadline): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of stream) yield chunk as Uint8Array;
      // A stream that was cut off can look as if it had ended. Where the connection lives and the agent names no error, it
      // has only refused to read on.
      const isCut = stream.aborted && (this.#session.destroyed || this.#session.closed);
      if (isCut || stream.rstCode !== constants.NGHTTP2_NO_ERROR) throw new Error('the stream was reset');
    } catch (error) {
      throw this.#explain(error, stream, deadline);
    } finally {
      if (!stream.closed) stream.close(constants.NGHTTP2_CANCEL);
      stream.destroy();
    }
  }

  #explain(error: unknown, stream: ClientHttp2Stream, deadline: Deadline): unknown {
    if (error instanceof GuestError) return error;
    if (deadline.signal.aborted) return deadline.signal.reason;
    if (this.#session.destroyed || this.#session.closed) return disconnected(error);
    if (stream.rstCode) {
      return new GuestError('transfer_broken', `the agent broke the transfer off (HTTP/2 code ${stream.rstCode})`, {
        cause: error,
      });
    }
    return error;
  }
}

function queryOf(query: RequestOptions['query']): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined) parameters.set(name, String(value));
  }
  return parameters.size === 0 ? '' : `?${parameters.toString()}`;
}

/**
 * Sends a body, until its end or that of the stream: where the agent answers before, the answer is what counts, and it must
 * stay readable. A failure of the body's own is that of the stream.
 */
async function send(body: Bytes, stream: ClientHttp2Stream): Promise<void> {
  if (body instanceof Uint8Array) {
    stream.end(body);
    return;
  }
  const closed = new Promise<undefined>((resolve) => stream.once('close', () => resolve(undefined)));
  const chunks = body[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await Promise.race([chunks.next(), closed]);
      if (next === undefined || stream.closed) return;
      if (next.done === true) break;
      if (!stream.write(next.value)) await Promise.race([drained(stream), closed]);
    }
    stream.end();
  } catch (error) {
    stream.destroy(error as Error);
  } finally {
    // Not waited for: it may still wait for its next chunk.
    chunks.return?.().catch(() => {});
  }
}

function drained(stream: ClientHttp2Stream): Promise<void> {
  return new Promise((resolve) => stream.once('drain', resolve));
}

function answerTo(stream: ClientHttp2Stream): Promise<IncomingHttpHeaders & IncomingHttpStatusHeader> {
  return new Promise((resolve, reject) => {
    stream.once('response', resolve);
    stream.once('error', reject);
    stream.once('close', () => reject(stream.errored ?? new Error('the stream ended without an answer')));
  });
}

async function errorOf(answer: Answer): Promise<GuestError> {
  const { status } = answer;
  const body = (await answer.json()) as { error?: unknown; code?: unknown } | undefined;
  if (typeof body?.error !== 'string' || typeof body.code !== 'string') {
    return new GuestError('bad_response', `the agent answered ${status}`, { status });
  }
  return new GuestError(body.code, body.error, { status });
}

async function jsonOf(chunks: AsyncIterable<Uint8Array>): Promise<unknown> {
  const text = await textOf(chunks);
  try {
    return text === '' ? undefined : JSON.parse(text);
  } catch (cause) {
    throw new GuestError('bad_response', "the agent's answer is no JSON", { cause });
  }
}

async function textOf(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes > jsonBytesMax) throw new GuestError('bad_response', `an answer is longer than ${jsonBytesMax} bytes`);
    parts.push(chunk);
  }
  return Buffer.concat(parts).toString('utf8');
}
