import {
  connect,
  constants,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
} from 'node:http2';
import type { Duplex } from 'node:stream';
import { encodeQueryValue } from '@forkd/api/constants';
import type { Static, TSchema } from 'typebox';
import type { Channel } from './channel.ts';
import { disconnected, GuestError, toldByAgent } from './errors.ts';
import type { Intake } from './intake.ts';
import { parseJson } from './json.ts';
import {
  CONNECTION_WINDOW_BYTES,
  http2,
  intake,
  REQUEST_TIMEOUT_MS_DEFAULT,
  STREAM_WINDOW_BYTES,
  TRANSFER_STALL_MS,
} from './limits.ts';
import { Tunnel } from './tunnel.ts';
import type { Budget } from './types.ts';
import { Deadline, type WaitOptions } from './wait.ts';
import { replies, type Reply } from './wire.ts';

export type Bytes = Uint8Array | AsyncIterable<Uint8Array>;

export interface RequestOptions {
  query?: Record<string, string | number | boolean | undefined>;
  json?: unknown;
  /** `tunnel`: the body is written to the answer's tunnel. */
  body?: Bytes | 'tunnel' | undefined;
  wait?: WaitOptions | undefined;
  /** Budget for the memory of the reply. */
  budget?: Budget | undefined;
  /**
   * Scope of the default deadline: the whole `exchange`; only the `head` of a reply that is a stream; a `transfer`, as long as
   * it makes no progress; or nothing (`open`), if the guest may take any time.
   */
  bounded?: 'exchange' | 'head' | 'transfer' | 'open';
}

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders & IncomingHttpStatusHeader;
  /** The body. Leaving the loop early cancels it. Throws a GuestError where it breaks off. */
  chunks(): AsyncGenerator<Uint8Array>;
  /** Gives up a body that nobody will read. */
  cancel(): void;
  /** The two directions of a request that was made as a tunnel, in place of `chunks`. */
  tunnel(): Duplex;
}

/** HTTP/2 with the agent, on a channel. */
export class Http {
  readonly #session: ClientHttp2Session;
  readonly #intake: Intake;
  /** Fulfilled when the connection has ended, however it did. */
  readonly closed: Promise<void>;

  constructor(channel: Channel) {
    this.#intake = channel.intake;
    const options = {
      createConnection: () => channel,
      settings: {
        initialWindowSize: STREAM_WINDOW_BYTES,
        enablePush: false,
        maxHeaderListSize: http2.headersBytesMax,
      },
      maxHeaderListPairs: http2.headersMax,
      maxSettings: http2.settingsMax,
      maxSessionMemory: http2.sessionMemoryMibMax,
      maxSessionInvalidFrames: http2.invalidFramesMax,
      maxSessionRejectedStreams: http2.rejectedStreamsMax,
    };
    this.#session = connect('http://guest', options);
    this.#session.on('connect', () => {
      // The channel may have closed before this event's turn came.
      if (!this.#session.destroyed) this.#session.setLocalWindowSize(CONNECTION_WINDOW_BYTES);
    });
    // Every pending request learns of this error: its stream fails.
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
    const { bounded = 'exchange' } = options;
    const defaultMs = bounded === 'exchange' || bounded === 'head' ? REQUEST_TIMEOUT_MS_DEFAULT : undefined;
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
    stream.once('close', () => {
      deadline.release();
      this.#intake.asked(intake.callBytes);
    });
    stream.on('error', () => {});
    if (bounded === 'transfer') stream.setTimeout(TRANSFER_STALL_MS, () => deadline.expire(TRANSFER_STALL_MS));
    try {
      const sent = body === undefined || body === 'tunnel' ? undefined : send(body, stream);
      const headers = await answerTo(stream);
      if (bounded === 'head' && options.wait?.timeoutMs === undefined) deadline.extend();
      const status = headers[':status'] ?? 0;
      const chunks = (): AsyncGenerator<Uint8Array> => this.#chunks(stream, deadline);
      if (status >= 400) throw await errorOf(status, chunks());
      await sent;
      const cancel = (): void => stream.close(constants.NGHTTP2_CANCEL);
      const tunnel = (): Duplex => new Tunnel(stream, (count) => this.#intake.asked(count));
      return { status, headers, chunks, cancel, tunnel };
    } catch (error) {
      throw this.#explain(error, stream, deadline);
    }
  }

  /** A request whose answer is JSON, or nothing. */
  async json<Schema extends TSchema>(
    method: string,
    path: string,
    reply: Reply<Schema>,
    options: RequestOptions = {},
  ): Promise<Static<Schema>> {
    const answer = await this.request(method, path, options);
    return reply.check(await parseJson(answer.chunks(), reply.bytesMax, { budget: options.budget }));
  }

  /** A request whose answer is a listing. `take` gets its items one by one. @throws GuestError `too_many_entries` */
  async items<Schema extends TSchema>(
    path: string,
    reply: Reply<Schema>,
    itemsMax: number,
    take: (item: Static<Schema>) => void,
    options: RequestOptions = {},
  ): Promise<void> {
    const answer = await this.request('GET', path, options);
    let count = 0;
    const onItem = (item: unknown): void => {
      count += 1;
      if (count > itemsMax) throw new GuestError('too_many_entries', `The listing has more than ${itemsMax} entries.`);
      take(reply.check(item));
    };
    const list = await parseJson(answer.chunks(), reply.bytesMax, { onItem, budget: options.budget });
    if (!Array.isArray(list)) throw new GuestError('bad_response', "The agent's answer is not a listing.");
  }

  async *#chunks(stream: ClientHttp2Stream, deadline: Deadline): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of stream as AsyncIterable<Uint8Array>) {
        this.#intake.asked(chunk.length);
        yield chunk;
      }
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
    const isOfHttp2 = error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_HTTP2');
    if (stream.rstCode || isOfHttp2) {
      const message = `The agent broke the transfer off (HTTP/2 code ${stream.rstCode ?? 'unknown'}).`;
      return new GuestError('transfer_broken', message, { cause: error });
    }
    // The body of the request has failed, for a reason of the caller's.
    return error;
  }
}

function queryOf(query: RequestOptions['query']): string {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined);
  const parameters = given.map(([name, value]) => `${name}=${encodeQueryValue(String(value))}`);
  return parameters.length === 0 ? '' : `?${parameters.join('&')}`;
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

async function errorOf(status: number, chunks: AsyncIterable<Uint8Array>): Promise<GuestError> {
  try {
    const { error, code } = replies.error.check(await parseJson(chunks, replies.error.bytesMax));
    return toldByAgent(status, code, error);
  } catch (cause) {
    if (cause instanceof GuestError && cause.code !== 'bad_response') return cause;
    return new GuestError('bad_response', `The agent answered ${status} without a reason.`, { status, cause });
  }
}
