import { defaultListen } from '@forkd/api/constants';
import { ForkdError } from './errors.ts';
import type { FetchInit, FetchLike, PlatformFetch, ReplyLike, WebSocketInit, WebSocketLike } from './fetch-types.ts';
import { environment, openDefaultFetch, openPlatformFetch } from './platform.ts';

export interface ConnectionOptions {
  /**
   * `http://host:port`, `https://…` or `unix:/path`. Default: FORKD_URL. Without it, Node uses the controller of this user's data
   * directory as `forkd` does, and starts it if none runs; other platforms use http://127.0.0.1:8889.
   */
  url?: string | undefined;
  /** The path of a unix socket. Takes precedence over `url`. Node only. */
  socket?: string | undefined;
  /** The bearer token. Default: FORKD_TOKEN. */
  token?: string | undefined;
  /** Another transport, for tests and proxies. This transport then has to use `socket` itself. */
  fetch?: FetchLike | undefined;
  /** The WebSockets of that transport. Without them it has no terminals. */
  webSocket?: PlatformFetch['webSocket'] | undefined;
}

export interface Connection {
  /** The address of the controller, for messages. A controller that nobody named has one after the first request. */
  readonly place: string;
  readonly token: string | undefined;
  fetch(path: string, init: FetchInit): Promise<ReplyLike>;
  webSocket(path: string, init: WebSocketInit): Promise<WebSocketLike>;
  close(): Promise<void>;
}

const UNIX_PREFIX = 'unix:';

export function openConnection(options: ConnectionOptions, env = environment()): Connection {
  const target = resolveTarget(options, env);
  const token = options.token ?? nonEmpty(env['FORKD_TOKEN']);
  const custom = options.fetch;
  let { place } = target;
  let opened: Promise<PlatformFetch & { place?: string }> | undefined;
  const open = async (): Promise<PlatformFetch> => {
    opened ??= target.isDefault ? openDefaultFetch(token) : openPlatformFetch(target.socket);
    const platform = await opened;
    place = platform.place ?? place;
    return platform;
  };
  return {
    get place() {
      return place;
    },
    token,
    async fetch(path, init) {
      if (custom) return custom(target.base + path, init);
      return (await open()).fetch(target.base + path, init);
    },
    async webSocket(path, init) {
      const connect = options.webSocket ?? (custom ? undefined : (await open()).webSocket);
      if (connect !== undefined) return connect(target.base + path, init);
      throw new ForkdError('bad_request', 'The transport of this client has no WebSockets, which terminals need.', {
        hint: 'Give the client `webSocket` beside `fetch`.',
      });
    },
    async close() {
      await (await opened)?.close();
      opened = undefined;
    },
  };
}

interface Target {
  base: string;
  place: string;
  socket?: string;
  /** True if neither the caller nor the environment named a controller. */
  isDefault?: true;
}

function resolveTarget(options: ConnectionOptions, env: Readonly<Record<string, string | undefined>>): Target {
  if (options.socket !== undefined) return unixTarget(options.socket);
  const url = options.url ?? nonEmpty(env['FORKD_URL']);
  if (url === undefined)
    return { ...httpTarget(`http://${defaultListen.host}:${defaultListen.port}`), isDefault: true };
  return url.startsWith(UNIX_PREFIX) ? unixTarget(url.slice(UNIX_PREFIX.length)) : httpTarget(url);
}

function unixTarget(pathText: string): Target {
  // `unix:///path` and `unix:/path` are both in use.
  const socket = pathText.replace(/^\/\/(?=\/)/, '');
  return { base: 'http://localhost', place: `${UNIX_PREFIX}${socket}`, socket };
}

function httpTarget(url: string): Target {
  if (!/^https?:\/\/./.test(url) || !URL.canParse(url)) {
    throw new ForkdError('bad_request', `"${url}" is not the URL of a controller.`, {
      hint: 'Give http://host:port, https://host:port or unix:/path/of/the/socket.',
    });
  }
  const base = url.replace(/\/+$/, '');
  return { base, place: base };
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === undefined || text === '' ? undefined : text;
}
