import { isIP } from 'node:net';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { defaultListen, limits } from '@forkd/api';
import type { EngineName } from '@forkd/engine';

import { messageOf } from './errors.ts';
import { dataPaths, defaultDataDir } from './paths.ts';

/** What the caller asked for cannot be: a sentence, and exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

const engines = ['qemu', 'firecracker'] as const satisfies readonly EngineName[];

export interface Options {
  dataDir: string;
  /** The store of snapshots: in the data directory, unless it is somewhere else. */
  snapshotRoot: string;
  socket: string;
  /** `null`: no TCP. */
  bind: { host: string; port: number } | null;
  /** Callers of the port must show one of its tokens. `null`: none is asked for. */
  tokenFile: string | null;
  /** `null`: the port speaks plain HTTP. */
  tls: { cert: string; key: string } | null;
  /** `null`: none is kept. */
  auditLog: string | null;
  branchConcurrency: number;
  /** What runs the VMs. */
  engine: EngineName;
  /** VMMs that wait for the next forks. */
  vmmPool: number;
  /** Branches that are older, or of their template's not among so many of the newest, are removed. `null`: they stay. */
  pruneOlderThanSecs: number | null;
  pruneKeep: number | null;
  /** `null`: never. */
  idleExitSecs: number | null;
  logLevel: LogLevel;
}

export const usage = `forkd-controller serve [options]
forkd-controller probe

serve: the daemon that runs sandboxes. Each option can be given as an environment variable.
probe: prints what the firecracker on PATH can do, as JSON.

  --bind HOST:PORT          where TCP is served; loopback only without a token file (127.0.0.1:8889, FORKD_BIND)
  --token-file FILE         bearer tokens for TCP, one a line, 16 bytes or more; read again on change (FORKD_TOKEN_FILE)
  --tls-cert FILE           certificate chain of the TCP port, PEM; read again on change (FORKD_TLS_CERT)
  --tls-key FILE            its key, PEM (FORKD_TLS_KEY)
  --no-tcp                  serve the unix socket only (FORKD_NO_TCP=1)
  --socket PATH             the unix socket (DATA/run/controller.sock, FORKD_CONTROLLER_SOCKET)
  --audit-log FILE          a line of JSON for each request; SIGHUP opens it again (FORKD_AUDIT_LOG)
  --data-dir DIR            snapshots, caches, sandboxes (/var/lib/forkd, FORKD_DATA_DIR)
  --state DIR               the same by forkd's name (FORKD_STATE)
  --snapshot-root DIR       the store of snapshots, when it is elsewhere (DATA/store, FORKD_SNAPSHOT_ROOT)
  --branch-concurrency N    branches at the same time (4, FORKD_BRANCH_CONCURRENCY)
  --engine NAME             what runs the VMs: qemu or firecracker, which is looked for on PATH (qemu, FORKD_ENGINE)
  --vmm-pool N              VMMs that are started ahead of the next forks; 0 for none (4; of Firecracker's none, FORKD_VMM_POOL)
  --prune-older-than-secs N remove branches that are older, unless others need them (FORKD_PRUNE_OLDER_THAN_SECS)
  --prune-keep N            of each template's branches, keep so many of the newest (FORKD_PRUNE_KEEP)
  --idle-exit-secs N        end after N seconds without a sandbox and a request (FORKD_IDLE_EXIT_SECS)
  --log-level LEVEL         ${logLevels.join(', ')} (info, FORKD_LOG_LEVEL)
  --help, --version

Example: forkd-controller serve --bind 127.0.0.1:8889 --branch-concurrency 8
`;

/** The variable of each option, which the command line goes over. */
export const optionEnv = {
  bind: 'FORKD_BIND',
  'token-file': 'FORKD_TOKEN_FILE',
  'tls-cert': 'FORKD_TLS_CERT',
  'tls-key': 'FORKD_TLS_KEY',
  'no-tcp': 'FORKD_NO_TCP',
  socket: 'FORKD_CONTROLLER_SOCKET',
  'audit-log': 'FORKD_AUDIT_LOG',
  'data-dir': 'FORKD_DATA_DIR',
  state: 'FORKD_STATE',
  'snapshot-root': 'FORKD_SNAPSHOT_ROOT',
  'branch-concurrency': 'FORKD_BRANCH_CONCURRENCY',
  engine: 'FORKD_ENGINE',
  'vmm-pool': 'FORKD_VMM_POOL',
  'prune-older-than-secs': 'FORKD_PRUNE_OLDER_THAN_SECS',
  'prune-keep': 'FORKD_PRUNE_KEEP',
  'idle-exit-secs': 'FORKD_IDLE_EXIT_SECS',
  'log-level': 'FORKD_LOG_LEVEL',
} as const;

const flags = {
  bind: { type: 'string' },
  'token-file': { type: 'string' },
  'tls-cert': { type: 'string' },
  'tls-key': { type: 'string' },
  'no-tcp': { type: 'boolean' },
  socket: { type: 'string' },
  'audit-log': { type: 'string' },
  'data-dir': { type: 'string' },
  state: { type: 'string' },
  'snapshot-root': { type: 'string' },
  'branch-concurrency': { type: 'string' },
  engine: { type: 'string' },
  'vmm-pool': { type: 'string' },
  'prune-older-than-secs': { type: 'string' },
  'prune-keep': { type: 'string' },
  'idle-exit-secs': { type: 'string' },
  'log-level': { type: 'string' },
  help: { type: 'boolean' },
  version: { type: 'boolean' },
} as const;

export type Command = { run: 'serve'; options: Options } | { run: 'probe' } | { run: 'help' } | { run: 'version' };

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
  if (positionals.join(' ') === 'probe') return { run: 'probe' };
  if (positionals.join(' ') !== 'serve') {
    throw new UsageError(`'${positionals.join(' ')}' is not a command; there are 'serve' and 'probe'.`);
  }
  const given = (flag: Exclude<keyof typeof optionEnv, 'no-tcp'>) =>
    values[flag] ?? (env[optionEnv[flag]] || undefined);
  const givenPath = (flag: Parameters<typeof given>[0]): string | null => {
    const path = given(flag);
    return path === undefined ? null : resolve(path);
  };
  const dataDir = parseDataDir(givenPath('data-dir'), givenPath('state')) ?? defaultDataDir(env);
  const paths = dataPaths(dataDir, givenPath('snapshot-root') ?? undefined);
  const tokenFile = givenPath('token-file');
  const noTcp = values['no-tcp'] ?? ['1', 'true'].includes(env[optionEnv['no-tcp']] ?? '');
  const count = (flag: Parameters<typeof given>[0], min = 1) => parseCount(`--${flag}`, given(flag), min);
  const engine = parseEngine(given('engine') ?? 'qemu');
  return {
    run: 'serve',
    options: {
      dataDir,
      snapshotRoot: paths.store,
      socket: givenPath('socket') ?? join(paths.run, 'controller.sock'),
      bind: noTcp ? null : parseBind(given('bind'), tokenFile !== null),
      tokenFile,
      tls: parseTls(givenPath('tls-cert'), givenPath('tls-key')),
      auditLog: givenPath('audit-log'),
      branchConcurrency: count('branch-concurrency') ?? limits.branchConcurrencyDefault,
      engine,
      vmmPool: parsePool(engine, count('vmm-pool', 0)),
      pruneOlderThanSecs: count('prune-older-than-secs', 0),
      pruneKeep: count('prune-keep', 0),
      idleExitSecs: count('idle-exit-secs'),
      logLevel: parseLevel(given('log-level') ?? 'info'),
    },
  };
}

/** Two names for one directory, of which scripts know one or the other. */
function parseDataDir(dataDir: string | null, state: string | null): string | null {
  if (dataDir !== null && state !== null && dataDir !== state) {
    throw new UsageError(`--data-dir '${dataDir}' and --state '${state}' are two names for one directory; give one.`);
  }
  return dataDir ?? state;
}

function parseTls(cert: string | null, key: string | null): Options['tls'] {
  if (cert !== null && key !== null) return { cert, key };
  if (cert === null && key === null) return null;
  throw new UsageError(
    cert === null ? `--tls-key '${key}' needs a --tls-cert.` : `--tls-cert '${cert}' needs a --tls-key.`,
  );
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

export function isLoopback(host: string): boolean {
  if (isIP(host) === 4) return host.startsWith('127.');
  return host === '::1' || host === 'localhost';
}

function parseCount(flag: string, text: string | undefined, min: number): number | null {
  if (text === undefined) return null;
  const count = Number(text);
  if (!/^\d{1,9}$/.test(text) || count < min)
    throw new UsageError(`${flag} must be a number of at least ${min}, it is '${text}'.`);
  return count;
}

function parseEngine(text: string): EngineName {
  const engine = engines.find((candidate) => candidate === text);
  if (engine === undefined) throw new UsageError(`--engine must be one of ${engines.join(', ')}, it is '${text}'.`);
  return engine;
}

/** A Firecracker is started for its VM, and cannot wait for one. */
function parsePool(engine: EngineName, asked: number | null): number {
  if (engine === 'qemu') return asked ?? limits.vmmPoolDefault;
  if (asked === null || asked === 0) return 0;
  throw new UsageError(`--vmm-pool '${asked}': with --engine ${engine} no VMM waits for a fork; leave it out.`);
}

function parseLevel(text: string): LogLevel {
  const level = logLevels.find((candidate) => candidate === text);
  if (level === undefined) throw new UsageError(`--log-level must be one of ${logLevels.join(', ')}, it is '${text}'.`);
  return level;
}
