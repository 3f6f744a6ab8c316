import { isIP } from 'node:net';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { defaultListen, limits } from '@forkd/api';

import { messageOf } from './errors.ts';
import { dataPaths, defaultDataDir } from './paths.ts';

/** What the caller asked for cannot be: a sentence, and exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

export interface Options {
  dataDir: string;
  socket: string;
  /** `null`: no TCP. */
  bind: { host: string; port: number } | null;
  /** Callers of the port must show one of its tokens. `null`: none is asked for. */
  tokenFile: string | null;
  branchConcurrency: number;
  /** VMMs that wait for the next forks. */
  vmmPool: number;
  /** `null`: never. */
  idleExitSecs: number | null;
  logLevel: LogLevel;
}

export const usage = `forkd-controller serve [options]

The daemon that runs sandboxes. Each option can be given as an environment variable.

  --bind HOST:PORT          where TCP is served; loopback only without a token file (127.0.0.1:8889, FORKD_BIND)
  --token-file FILE         bearer tokens for TCP, one a line, 16 bytes or more; read again on change (FORKD_TOKEN_FILE)
  --no-tcp                  serve the unix socket only (FORKD_NO_TCP=1)
  --socket PATH             the unix socket (DATA/run/controller.sock, FORKD_CONTROLLER_SOCKET)
  --data-dir DIR            snapshots, caches, sandboxes (/var/lib/forkd, FORKD_DATA_DIR)
  --branch-concurrency N    branches at the same time (4, FORKD_BRANCH_CONCURRENCY)
  --vmm-pool N              VMMs that are started ahead of the next forks; 0 for none (4, FORKD_VMM_POOL)
  --idle-exit-secs N        end after N seconds without a sandbox and a request (FORKD_IDLE_EXIT_SECS)
  --log-level LEVEL         ${logLevels.join(', ')} (info, FORKD_LOG_LEVEL)
  --help, --version

Example: forkd-controller serve --bind 127.0.0.1:8889 --branch-concurrency 8
`;

const flags = {
  bind: { type: 'string' },
  'token-file': { type: 'string' },
  'no-tcp': { type: 'boolean' },
  socket: { type: 'string' },
  'data-dir': { type: 'string' },
  'branch-concurrency': { type: 'string' },
  'vmm-pool': { type: 'string' },
  'idle-exit-secs': { type: 'string' },
  'log-level': { type: 'string' },
  help: { type: 'boolean' },
  version: { type: 'boolean' },
} as const;

export type Command = { run: 'serve'; options: Options } | { run: 'help' } | { run: 'version' };

/** Reads the command line over the environment. Throws `UsageError`. */
export function parseCommand(argv: readonly string[], env: NodeJS.ProcessEnv): Command {
  let parsed;
  try {
    parsed = parseArgs({ args: [...argv], options: flags, allowPositionals: true });
  } catch (error) {
    // Node adds a paragraph on positional arguments, of which there is one.
    throw new UsageError(`${messageOf(error).split('. ')[0] ?? ''}.`, { cause: error });
  }
  const { values, positionals } = parsed;
  if (values.help === true) return { run: 'help' };
  if (values.version === true) return { run: 'version' };
  if (positionals.join(' ') !== 'serve') {
    throw new UsageError(`'${positionals.join(' ')}' is not a command; there is 'serve'.`);
  }
  const given = (flag: Exclude<keyof typeof flags, 'no-tcp' | 'help' | 'version'>, name: string) =>
    values[flag] ?? (env[name] || undefined);
  const dataDir = resolve(given('data-dir', 'FORKD_DATA_DIR') ?? defaultDataDir(env));
  const tokenFile = given('token-file', 'FORKD_TOKEN_FILE');
  const noTcp = values['no-tcp'] ?? ['1', 'true'].includes(env['FORKD_NO_TCP'] ?? '');
  return {
    run: 'serve',
    options: {
      dataDir,
      socket: resolve(given('socket', 'FORKD_CONTROLLER_SOCKET') ?? join(dataPaths(dataDir).run, 'controller.sock')),
      bind: noTcp ? null : parseBind(given('bind', 'FORKD_BIND'), tokenFile !== undefined),
      tokenFile: tokenFile === undefined ? null : resolve(tokenFile),
      branchConcurrency:
        parseCount('--branch-concurrency', given('branch-concurrency', 'FORKD_BRANCH_CONCURRENCY')) ??
        limits.branchConcurrencyDefault,
      vmmPool: parseCount('--vmm-pool', given('vmm-pool', 'FORKD_VMM_POOL'), 0) ?? limits.vmmPoolDefault,
      idleExitSecs: parseCount('--idle-exit-secs', given('idle-exit-secs', 'FORKD_IDLE_EXIT_SECS')),
      logLevel: parseLevel(given('log-level', 'FORKD_LOG_LEVEL') ?? 'info'),
    },
  };
}

/** Without a token nobody but this host may reach the port: who does is root on it, in effect. */
function parseBind(text: string | undefined, hasTokens: boolean): { host: string; port: number } {
  if (text === undefined) return { ...defaultListen };
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535) throw new UsageError(`--bind '${text}' is not HOST:PORT.`);
  if (!hasTokens && !isLoopback(host)) {
    throw new UsageError(
      `--bind '${text}' is not a loopback address, and there is no --token-file: anybody who reaches it would own this host.`,
    );
  }
  return { host, port };
}

function isLoopback(host: string): boolean {
  if (isIP(host) === 4) return host.startsWith('127.');
  return host === '::1' || host === 'localhost';
}

function parseCount(flag: string, text: string | undefined, min = 1): number | null {
  if (text === undefined) return null;
  const count = Number(text);
  if (!/^\d{1,9}$/.test(text) || count < min)
    throw new UsageError(`${flag} must be a number of at least ${min}, it is '${text}'.`);
  return count;
}

function parseLevel(text: string): LogLevel {
  const level = logLevels.find((candidate) => candidate === text);
  if (level === undefined) throw new UsageError(`--log-level must be one of ${logLevels.join(', ')}, it is '${text}'.`);
  return level;
}
