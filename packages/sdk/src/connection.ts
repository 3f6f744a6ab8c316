import { defaultListen } from '@forkd/api/constants';
import { ForkdError } from './errors.ts';
import type { FetchInit, FetchLike, PlatformFetch, ReplyLike } from './fetch-types.ts';
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
}

export interface Connection {
  /** The address of the controller, for messages. A controller that nobody named has one after the first request. */
  readonly place: string;
  readonly token: string | undefined;
  fetch(path: string, init: FetchInit): Promise<ReplyLike>;
  close(): Promise<void>;
}

const UNIX_PREFIX = 'unix:';

export function openConnection(options: ConnectionOptions, env = environment()): Connection {
  const target = resolveTarget(options, env);
  const token = options.token ?? nonEmpty(env['FORKD_TOKEN']);
  const custom = options.fetch;
  let { place } = target;
  let opened: Promise<PlatformFetch & { place?: string }> | undefined;
  return {
    get place() {
      return place;
    },
    token,
    async fetch(path, init) {
      if (custom) return custom(target.base + path, init);
      opened ??= target.isDefault ? openDefaultFetch(token) : openPlatformFetch(target.socket);
      const platform = await opened;
      place = platform.place ?? place;
      return platform.fetch(target.base + path, init);
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
