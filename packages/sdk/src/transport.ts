import { encodeQueryValue, NDJSON_MEDIA_TYPE, PTY_PROTOCOL } from '@forkd/api/constants';
import { explainConnect } from './connect-failure.ts';
import type { Connection } from './connection.ts';
import { sleep, startDeadline, type CallOptions, type Deadline } from './deadline.ts';
import { errorFromReply, ForkdError } from './errors.ts';
import type { FetchInit, ReplyLike, WebSocketLike } from './fetch-types.ts';
import { parseNdjson } from './ndjson.ts';
import { asLost, LostConnection, retryAfterMs, withRetries, type Repeatable } from './retry.ts';
import { parseServerSentEvents } from './server-sent-events.ts';

export type RequestBody = string | Uint8Array | AsyncIterable<Uint8Array>;

export interface RequestSpec {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  query?: Record<string, string | number | boolean | readonly string[] | undefined>;
  headers?: Record<string, string>;
  json?: unknown;
  raw?: RequestBody;
  timeoutMsDefault?: number;
  /** Default: `read` for GET, else `never`. */
  repeatable?: Repeatable;
}

const TIMEOUT_MS_DEFAULT = 60_000;
/** Delays between attempts to connect, by error code. No byte was sent, so any request can be repeated. */
const CONNECT_RETRIES_MS: Readonly<Record<string, readonly number[]>> = {
  ECONNREFUSED: [20, 60, 180],
  // A controller listens, but more callers than it lets wait have come at once.
  EAGAIN: [20, 60, 180, 540, 1600],
};

/** Sends requests over a connection: headers, deadline, retries, and errors that name the request and the controller. */
export class Transport {
  readonly connection: Connection;

  constructor(connection: Connection) {
    this.connection = connection;
  }

  async json<Result>(spec: RequestSpec, options: CallOptions): Promise<Result> {
    const text = await this.#whole(spec, options, 'application/json', (reply) => reply.text());
    try {
      return JSON.parse(text) as Result;
    } catch (error) {
      throw new ForkdError('bad_response', `${describe(spec)}: the reply is not JSON.`, { cause: error });
    }
  }

  async none(spec: RequestSpec, options: CallOptions): Promise<void> {
    await this.#whole(spec, options, 'application/json', (reply) => reply.text());
  }

  async bytes(spec: RequestSpec, options: CallOptions): Promise<Uint8Array> {
    return this.#whole(spec, options, '*/*', async (reply) => new Uint8Array(await reply.arrayBuffer()));
  }

  /** Streams the body. The request ends if the reader stops. */
  async *stream(spec: RequestSpec, options: CallOptions, accept = '*/*'): AsyncGenerator<Uint8Array> {
    const deadline = startDeadline(options, spec.timeoutMsDefault ?? 0, describe(spec));
    try {
      const reply = await withRetries(repeatableOf(spec), deadline.signal, () => this.#send(spec, accept, deadline));
      yield* chunksOf(reply);
    } catch (error) {
      throw explainCut(deadline.explain(error), spec, this.connection.place);
    } finally {
      deadline.release();
    }
  }

  events<Event>(spec: RequestSpec, options: CallOptions): AsyncGenerator<Event> {
    return parseNdjson<Event>(this.stream(spec, options, NDJSON_MEDIA_TYPE));
  }

  serverSentEvents<Event>(spec: RequestSpec, options: CallOptions): AsyncGenerator<Event> {
    return parseServerSentEvents<Event>(this.stream(spec, options, 'text/event-stream'));
  }

  /** Begins to connect a WebSocket. `ticket` gets what lets it in where no header can be sent. */
  webSocket(spec: RequestSpec, ticket: () => Promise<string>, { signal }: CallOptions): Promise<WebSocketLike> {
    signal?.throwIfAborted();
    const { token } = this.connection;
    const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const init = { protocol: PTY_PROTOCOL, headers, ticket };
    return this.connection.webSocket(spec.path + queryString(spec.query), init);
  }

  async #whole<Result>(
    spec: RequestSpec,
    options: CallOptions,
    accept: string,
    read: (reply: ReplyLike) => Promise<Result>,
  ): Promise<Result> {
    const deadline = startDeadline(options, spec.timeoutMsDefault ?? TIMEOUT_MS_DEFAULT, describe(spec));
    try {
      return await withRetries(repeatableOf(spec), deadline.signal, async () => {
        const reply = await this.#send(spec, accept, deadline);
        return read(reply).catch(throwAsLost);
      });
    } catch (error) {
      throw explainCut(deadline.explain(error), spec, this.connection.place);
    } finally {
      deadline.release();
    }
  }

  async #send(spec: RequestSpec, accept: string, deadline: Deadline): Promise<ReplyLike> {
    const reply = await this.#connect(spec, this.#init(spec, accept, deadline.signal));
    if (reply.status < 400) return reply;
    throw errorFromReply(reply.status, await reply.text().catch(throwAsLost), {
      requestId: reply.headers.get('x-request-id') ?? undefined,
      retryAfterMs: retryAfterMs(reply.headers.get('retry-after')),
    });
  }

  #init(spec: RequestSpec, accept: string, signal: AbortSignal): FetchInit {
    const headers: Record<string, string> = { accept, ...spec.headers };
    if (this.connection.token !== undefined) headers['authorization'] = `Bearer ${this.connection.token}`;
    const init: FetchInit = { method: spec.method, headers, signal };
    if (spec.json !== undefined) {
      headers['content-type'] = 'application/json';
      init.body = JSON.stringify(spec.json);
    } else if (spec.raw !== undefined) {
      headers['content-type'] = 'application/octet-stream';
      init.body = spec.raw;
      init.duplex = 'half';
    }
    return init;
  }

  async #connect(spec: RequestSpec, init: FetchInit): Promise<ReplyLike> {
    const path = spec.path + queryString(spec.query);
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.connection.fetch(path, init);
      } catch (error) {
        const code = causeCode(error);
        // Part of a streamed body may have been consumed.
        const repeatable = init.body === undefined || typeof init.body === 'string' || ArrayBuffer.isView(init.body);
        const delayMs = CONNECT_RETRIES_MS[code ?? '']?.[attempt];
        if (delayMs === undefined || !repeatable) throw asLost(explainConnect(error, code, this.connection.place));
        await sleep(delayMs, init.signal);
      }
    }
  }
}

function repeatableOf(spec: RequestSpec): Repeatable {
  return spec.repeatable ?? (spec.method === 'GET' ? 'read' : 'never');
}

function throwAsLost(error: unknown): never {
  throw asLost(error);
}

async function* chunksOf({ body }: ReplyLike): AsyncGenerator<Uint8Array> {
  try {
    yield* body ?? [];
  } catch (error) {
    throw asLost(error);
  }
}

function describe(spec: RequestSpec): string {
  return `${spec.method} ${spec.path}`;
}

/** Replaces fetch's "terminated" by an error that says that the connection broke during the reply. */
function explainCut(error: unknown, spec: RequestSpec, place: string): unknown {
  if (!(error instanceof LostConnection)) return error;
  const { cause } = error;
  const tls = place.startsWith('http:') ? ' If its port speaks TLS, give its address with https://.' : '';
  return new ForkdError('stream_cut', `${describe(spec)}: the connection was lost (${causeText(cause)}).`, {
    hint: `The controller may have ended. Its log is <data directory>/run/controller.log.${tls}`,
    cause,
  });
}

function causeCode(error: unknown): string | undefined {
  const cause = typeof error === 'object' && error !== null && 'cause' in error ? error.cause : undefined;
  if (typeof cause !== 'object' || cause === null || !('code' in cause)) return undefined;
  return typeof cause.code === 'string' ? cause.code : undefined;
}

function causeText(error: Error): string {
  return causeCode(error) ?? (error.cause instanceof Error ? error.cause.message : error.message);
}

function queryString(query: RequestSpec['query']): string {
  const parameters = Object.entries(query ?? {}).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value])
      .filter((one) => one !== undefined)
      .map((one) => `${name}=${encodeQueryValue(String(one))}`),
  );
  return parameters.length === 0 ? '' : `?${parameters.join('&')}`;
}
