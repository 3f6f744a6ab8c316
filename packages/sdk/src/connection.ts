import { defaultListen } from '@forkd/api/constants';
import { Agent, fetch as undiciFetch, type Dispatcher } from 'undici';
import { ForkdError } from './errors.ts';

/** The part of a Response that the client reads, so that undici's, the platform's and a test's all fit. */
export type ReplyLike = {
  readonly status: number;
  readonly headers: { get(name: string): string | null };
  readonly body: AsyncIterable<Uint8Array> | null;
  text(): Promise<string>;
  arrayBuffer(): Promise<ArrayBuffer>;
};

export type FetchInit = {
  method: string;
  headers: Record<string, string>;
  signal: AbortSignal;
  body?: string | Uint8Array | AsyncIterable<Uint8Array>;
  duplex?: 'half';
};

export type FetchLike = (url: string, init: FetchInit) => Promise<ReplyLike>;

export type ConnectionOptions = {
  /** `http://host:port`, `https://…` or `unix:/path`. Default: FORKD_URL, then FORKD_SOCKET, then the port of the daemon. */
  url?: string | undefined;
  /** A unix socket; goes before `url`. */
  socket?: string | undefined;
  /** Default: FORKD_TOKEN. */
  token?: string | undefined;
  /** Another transport, for tests and proxies. `socket` is then the caller's business. */
  fetch?: FetchLike | undefined;
};

export type Connection = {
  /** For messages: where the controller is. */
  readonly place: string;
  readonly token: string | undefined;
  fetch(path: string, init: FetchInit): Promise<ReplyLike>;
  close(): Promise<void>;
};

const UNIX_PREFIX = 'unix:';
/** A connection is there at once or not at all: the controller is on this host or near it. */
const CONNECT_TIMEOUT_MS = 10_000;

export function openConnection(options: ConnectionOptions, env: NodeJS.ProcessEnv = process.env): Connection {
  const target = resolveTarget(options, env);
  const token = options.token ?? nonEmpty(env['FORKD_TOKEN']);
  if (options.fetch) {
    const custom = options.fetch;
    return {
      place: target.place,
      token,
      fetch: (path, init) => custom(target.base + path, init),
      close: async () => {},
    };
  }
  // Deadlines are the client's own, one a call: undici's would end a followed command after five silent minutes.
  const agent = new Agent({
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: {
      timeout: CONNECT_TIMEOUT_MS,
      ...(target.socket === undefined ? {} : { socketPath: target.socket }),
    },
  });
  return {
    place: target.place,
    token,
    fetch: (path, init) => fetchWith(agent, target.base + path, init),
    close: () => agent.close(),
  };
}

function fetchWith(dispatcher: Dispatcher, url: string, init: FetchInit): Promise<ReplyLike> {
  return undiciFetch(url, { ...init, dispatcher });
}

function resolveTarget(
  options: ConnectionOptions,
  env: NodeJS.ProcessEnv,
): {
  base: string;
  place: string;
  socket?: string;
} {
  const url = options.url ?? (options.socket === undefined ? nonEmpty(env['FORKD_URL']) : undefined);
  const socket = options.socket ?? (url === undefined ? nonEmpty(env['FORKD_SOCKET']) : undefined);
  if (socket !== undefined) return unixTarget(socket);
  if (url === undefined) return httpTarget(`http://${defaultListen.host}:${defaultListen.port}`);
  return url.startsWith(UNIX_PREFIX) ? unixTarget(url.slice(UNIX_PREFIX.length)) : httpTarget(url);
}

function unixTarget(pathText: string): { base: string; place: string; socket: string } {
  // `unix:///path` and `unix:/path` are both in use.
  const socket = pathText.replace(/^\/\/(?=\/)/, '');
  return { base: 'http://localhost', place: `${UNIX_PREFIX}${socket}`, socket };
}

function httpTarget(url: string): { base: string; place: string } {
  if (!/^https?:\/\/./.test(url) || !URL.canParse(url)) {
    throw new ForkdError('bad_request', `"${url}" is not the URL of a controller`, {
      hint: 'give http://host:port, https://host:port or unix:/path/of/the/socket',
    });
  }
  const base = url.replace(/\/+$/, '');
  return { base, place: base };
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === undefined || text === '' ? undefined : text;
}
