import { defaultListen } from '@forkd/api/constants';
import { ForkdError } from './errors.ts';
import { environment, openPlatformFetch, type PlatformFetch } from './platform.ts';

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
  /** `http://host:port`, `https://…` or `unix:/path`. Default: FORKD_URL, then FORKD_SOCKET, then http://127.0.0.1:8889. */
  url?: string | undefined;
  /** The path of a unix socket; goes before `url`. In Node only. */
  socket?: string | undefined;
  /** The bearer token. Default: FORKD_TOKEN. */
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

export function openConnection(options: ConnectionOptions, env = environment()): Connection {
  const target = resolveTarget(options, env);
  const token = options.token ?? nonEmpty(env['FORKD_TOKEN']);
  const custom = options.fetch;
  let opened: Promise<PlatformFetch> | undefined;
  return {
    place: target.place,
    token,
    async fetch(path, init) {
      if (custom) return custom(target.base + path, init);
      opened ??= openPlatformFetch(target.socket);
      return (await opened).fetch(target.base + path, init);
    },
    async close() {
      await (await opened)?.close();
      opened = undefined;
    },
  };
}

function resolveTarget(
  options: ConnectionOptions,
  env: Readonly<Record<string, string | undefined>>,
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
