import { isIP } from 'node:net';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { defaultListen, engineNames, limits, messageOf } from '@forkd/api/constants';
import type { EngineName } from '@forkd/engine';
import {
  type Address,
  type LogLevel,
  type OptionName,
  type OptionValue,
  optionEntries,
  optionTable,
  signatureOf,
} from './option-table.ts';
import { dataPaths, defaultDataDir } from './paths.ts';
import type { PortDomain } from './port-domain.ts';
import { UsageError } from './usage-error.ts';

export interface Options {
  dataDir: string;
  /** The store of snapshots, by default in the data directory. */
  snapshotRoot: string;
  socket: string;
  /** `null`: no TCP. */
  bind: Address | null;
  /** Address that serves E2B's wire. `null`: none does. */
  e2b: Address | null;
  /** Callers of the port must present a token of this file. `null`: none is required. */
  tokenFile: string | null;
  /** `null`: the port speaks plain HTTP. */
  tls: { cert: string; key: string } | null;
  /** Further host names by which the port may be called. */
  allowHosts: readonly string[];
  /** The domain of the host names that stand for ports of sandboxes. */
  portDomain: PortDomain;
  /** Path of the audit log. `null`: none is kept. */
  auditLog: string | null;
  branchConcurrency: number;
  /** The engine that runs the VMs. */
  engine: EngineName;
  /** Number of VMMs kept ready for the next forks. */
  vmmPool: number;
  /** DNS servers for names that sandboxes may reach, as `ADDRESS:PORT`. Empty: those of the host. */
  resolvers: readonly string[];
  /** RAM for layers that no sandbox maps. `null`: the pager takes a share of the host's RAM. */
  layerCacheMib: number | null;
  /** Prune branches older than this, and all but the newest `pruneKeep` per template. `null`: off. */
  pruneOlderThanSecs: number | null;
  pruneKeep: number | null;
  /** Exit after being idle for this long. `null`: never. */
  idleExitSecs: number | null;
  logLevel: LogLevel;
}

export const usage = `forkd-controller serve [options]
forkd-controller probe
forkd-controller probe accelerator [--data-dir DIR]
forkd-controller probe programs

serve: the daemon that runs sandboxes. Each option can be given as an environment variable.
probe: prints what the firecracker on PATH can do, as JSON.
probe accelerator: prints whether QEMU's guests run under KVM here and with which processor model, as JSON.
probe programs: prints where the native programs are, as JSON.

${usageLines()}
  --help, --version

Example: forkd-controller serve --bind 127.0.0.1:8889 --branch-concurrency 8
`;

export type Command =
  | { run: 'serve'; options: Options }
  | { run: 'probe' | 'probe programs' }
  | { run: 'probe accelerator'; dataDir: string }
  | { run: 'help' }
  | { run: 'version' };

/** Reads the command line over the environment. Throws `UsageError`. */
export function parseCommand(argv: readonly string[], env: NodeJS.ProcessEnv): Command {
  const { values, positionals } = parseArguments(argv);
  if (values['help'] === true) return { run: 'help' };
  if (values['version'] === true) return { run: 'version' };
  const run = positionals.join(' ');
  if (run === 'probe' || run === 'probe programs') return { run };
  if (run !== 'serve' && run !== 'probe accelerator') {
    throw new UsageError(
      `'${run}' is not a command; there are 'serve', 'probe', 'probe accelerator' and 'probe programs'.`,
    );
  }
  const given = <Name extends OptionName>(name: Name): OptionValue<Name> | null => {
    const { variable, parse } = optionTable[name];
    const value = values[name] ?? (env[variable] || undefined);
    if (value === undefined) return null;
    return parse(value === true ? '1' : String(value), `--${name}`) as OptionValue<Name>;
  };
  const dataDir = oneDataDir(given('data-dir'), given('state')) ?? defaultDataDir(env);
  if (run === 'probe accelerator') return { run, dataDir };
  const paths = dataPaths(dataDir, given('snapshot-root') ?? undefined);
  const tokenFile = given('token-file');
  const e2b = given('e2b');
  const engine = given('engine') ?? engineNames[0];
  return {
    run: 'serve',
    options: {
      dataDir,
      snapshotRoot: paths.store,
      socket: given('socket') ?? join(paths.run, 'controller.sock'),
      bind:
        given('no-tcp') === true
          ? null
          : reachable('--bind', given('bind') ?? { ...defaultListen }, tokenFile !== null),
      e2b: e2b === null ? null : reachable('--e2b', e2b, tokenFile !== null),
      tokenFile,
      tls: tlsPair(given('tls-cert'), given('tls-key')),
      allowHosts: given('allow-host') ?? [],
      portDomain: given('port-domain') ?? { name: 'localhost', served: null },
      auditLog: given('audit-log'),
      branchConcurrency: given('branch-concurrency') ?? limits.branchConcurrencyDefault,
      engine,
      resolvers: given('resolver') ?? [],
      vmmPool: poolSize(engine, given('vmm-pool')),
      layerCacheMib: given('layer-cache-mib'),
      pruneOlderThanSecs: given('prune-older-than-secs'),
      pruneKeep: given('prune-keep'),
      idleExitSecs: given('idle-exit-secs'),
      logLevel: given('log-level') ?? 'info',
    },
  };
}

function parseArguments(argv: readonly string[]) {
  const types = optionEntries.map(([name, { value }]) => [name, { type: value === undefined ? 'boolean' : 'string' }]);
  const options = { ...Object.fromEntries(types), help: { type: 'boolean' }, version: { type: 'boolean' } } as Record<
    string,
    { type: 'boolean' | 'string'; multiple: false }
  >;
  try {
    return parseArgs({ args: [...argv], options, allowPositionals: true });
  } catch (error) {
    // Node adds a paragraph on positional arguments, of which there is one.
    throw new UsageError(`${messageOf(error).split('. ')[0] ?? ''}.`, { cause: error });
  }
}

function usageLines(): string {
  return optionEntries
    .map(([name, spec]) => {
      const variable = spec.value === undefined ? `${spec.variable}=1` : spec.variable;
      const byDefault = spec.default === undefined ? '' : `${spec.default}, `;
      return `  ${signatureOf(name, spec).padEnd(25)} ${spec.help} (${byDefault}${variable})`;
    })
    .join('\n');
}

/** Two names for one directory, of which scripts know one or the other. */
function oneDataDir(dataDir: string | null, state: string | null): string | null {
  if (dataDir !== null && state !== null && dataDir !== state) {
    throw new UsageError(`--data-dir '${dataDir}' and --state '${state}' are two names for one directory; give one.`);
  }
  return dataDir ?? state;
}

function tlsPair(cert: string | null, key: string | null): Options['tls'] {
  if (cert !== null && key !== null) return { cert, key };
  if (cert === null && key === null) return null;
  throw new UsageError(
    cert === null ? `--tls-key '${key}' needs a --tls-cert.` : `--tls-cert '${cert}' needs a --tls-key.`,
  );
}

/** Refuses an address that other hosts can reach unless tokens are required: API access is, in effect, root on the host. */
function reachable(option: string, address: Address, hasTokens: boolean): Address {
  if (hasTokens || isLoopback(address.host)) return address;
  throw new UsageError(
    `${option} '${address.host}' is not a loopback address, and there is no --token-file: anybody who reaches it would own this host.`,
  );
}

export function isLoopback(host: string): boolean {
  if (isIP(host) === 4) return host.startsWith('127.');
  return host === '::1' || host === 'localhost';
}

/** A Firecracker process is started for its VM, and cannot wait for one in a pool. */
function poolSize(engine: EngineName, asked: number | null): number {
  if (engine === 'qemu') return asked ?? limits.vmmPoolDefault;
  if (asked === null || asked === 0) return 0;
  throw new UsageError(`--vmm-pool '${asked}': with --engine ${engine} no VMM waits for a fork; leave it out.`);
}
