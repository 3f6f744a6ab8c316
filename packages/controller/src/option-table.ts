import { statSync } from 'node:fs';
import { isIP } from 'node:net';
import { dirname, resolve } from 'node:path';
import { defaultListen, engineNames, limits } from '@forkd/api/constants';
import type { PortDomain } from './port-domain.ts';
import { UsageError } from './usage-error.ts';

const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

export type LogLevel = (typeof logLevels)[number];

/** The address of the TCP port. */
export interface Address {
  host: string;
  port: number;
}

interface OptionSpec {
  /** The environment variable. The command line overrides it. */
  variable: string;
  /** The name of the value in the usage text. Without it the option is a flag, which is on if it is given. */
  value?: string;
  /** Reads the value. Throws `UsageError`. */
  parse: (text: string, option: string) => unknown;
  /** The text for the default value, which `parseCommand` applies. */
  default?: string;
  /** A line of the usage text, and the beginning of the cell in docs/operate/controller.md. */
  help: string;
  /** Further sentences for docs/operate/controller.md. */
  note?: string;
}

/** Every option of `serve`. The usage text, the parsing and the table in docs/operate/controller.md are derived from this list. */
export const optionTable = {
  bind: {
    variable: 'FORKD_BIND',
    value: 'HOST:PORT',
    parse: asAddress,
    default: `${defaultListen.host}:${defaultListen.port}`,
    help: 'where TCP is served; loopback only without a token file',
  },
  e2b: {
    variable: 'FORKD_E2B',
    value: '[HOST:]PORT',
    parse: asPort,
    help: "where E2B's wire is served, for its SDKs; keys are the tokens; loopback only without a token file",
    note: 'See [the guide](../guides/e2b.md).',
  },
  'token-file': {
    variable: 'FORKD_TOKEN_FILE',
    value: 'FILE',
    parse: asPath,
    help: `bearer tokens for TCP, one per line, ${limits.tokenBytesMin} bytes or more; read again on change`,
  },
  'tls-cert': {
    variable: 'FORKD_TLS_CERT',
    value: 'FILE',
    parse: asPath,
    help: 'certificate chain of the TCP port, PEM; read again on change',
  },
  'tls-key': {
    variable: 'FORKD_TLS_KEY',
    value: 'FILE',
    parse: asPath,
    help: 'its key, PEM',
    note: 'Others must not be able to read it.',
  },
  'allow-host': {
    variable: 'FORKD_ALLOW_HOST',
    value: 'NAMES',
    parse: asHosts,
    help: 'names of this host by which TCP may be called, with commas between',
  },
  'port-domain': {
    variable: 'FORKD_PORT_DOMAIN',
    value: 'NAME',
    parse: asDomain,
    default: 'localhost',
    help: 'ports of sandboxes have host names below it',
    note: 'Behind a proxy: `https://NAME[:PORT]`. See [HTTP](../guides/network.md#http).',
  },
  'no-tcp': {
    variable: 'FORKD_NO_TCP',
    parse: asSwitch,
    help: 'serve the unix socket only',
  },
  socket: {
    variable: 'FORKD_CONTROLLER_SOCKET',
    value: 'PATH',
    parse: asPath,
    default: 'DATA/run/controller.sock',
    help: 'the unix socket',
  },
  'audit-log': {
    variable: 'FORKD_AUDIT_LOG',
    value: 'FILE',
    parse: asPath,
    help: 'a line of JSON for each request; SIGHUP opens it again',
  },
  'data-dir': {
    variable: 'FORKD_DATA_DIR',
    value: 'DIR',
    parse: asPath,
    default: '/var/lib/forkd',
    help: 'snapshots, caches, sandboxes',
    note: 'Not as root: `$XDG_DATA_HOME/forkd`.',
  },
  state: {
    variable: 'FORKD_STATE',
    value: 'PATH',
    parse: asStateDir,
    help: 'another name for --data-dir; of a file, the directory that it is in',
  },
  'snapshot-root': {
    variable: 'FORKD_SNAPSHOT_ROOT',
    value: 'DIR',
    parse: asPath,
    default: 'DATA/store',
    help: 'the store of snapshots, when it is elsewhere',
    note: 'It belongs to one controller at a time.',
  },
  'branch-concurrency': {
    variable: 'FORKD_BRANCH_CONCURRENCY',
    value: 'N',
    parse: countFrom(1),
    default: String(limits.branchConcurrencyDefault),
    help: 'branches at the same time',
  },
  engine: {
    variable: 'FORKD_ENGINE',
    value: 'NAME',
    parse: oneOf(engineNames),
    default: engineNames[0],
    help: `what runs the VMs: ${engineNames.join(' or ')}, which is looked for on PATH`,
  },
  resolver: {
    variable: 'FORKD_RESOLVER',
    value: 'ADDRESSES',
    parse: asResolvers,
    default: 'those of /etc/resolv.conf',
    help: 'DNS servers for names that sandboxes may reach, ADDRESS:PORT, with commas between',
  },
  'vmm-pool': {
    variable: 'FORKD_VMM_POOL',
    value: 'N',
    parse: countFrom(0),
    default: `${limits.vmmPoolDefault}; none for Firecracker`,
    help: 'VMMs that are started ahead of the next forks; 0 for none',
  },
  'layer-cache-mib': {
    variable: 'FORKD_LAYER_CACHE_MIB',
    value: 'N',
    parse: countFrom(0),
    default: 'a sixteenth of the RAM',
    help: 'RAM for memory of snapshots that no sandbox maps; the rest is read from disk',
    note: 'See [Memory](#memory).',
  },
  'prune-older-than-secs': {
    variable: 'FORKD_PRUNE_OLDER_THAN_SECS',
    value: 'N',
    parse: countFrom(0),
    help: 'remove branches that are older, unless others need them',
    note: 'Checked once per minute.',
  },
  'prune-keep': {
    variable: 'FORKD_PRUNE_KEEP',
    value: 'N',
    parse: countFrom(0),
    help: "of each template's branches, keep this many of the newest",
  },
  'idle-exit-secs': {
    variable: 'FORKD_IDLE_EXIT_SECS',
    value: 'N',
    parse: countFrom(1),
    help: 'end after N seconds without a sandbox and a request',
  },
  'log-level': {
    variable: 'FORKD_LOG_LEVEL',
    value: 'LEVEL',
    parse: oneOf(logLevels),
    default: 'info',
    help: `what is logged: ${logLevels.join(', ')}`,
  },
} as const satisfies Record<string, OptionSpec>;

export type OptionName = keyof typeof optionTable;

/** The type of an option that has been read. */
export type OptionValue<Name extends OptionName> = ReturnType<(typeof optionTable)[Name]['parse']>;

/** Every option with its name, in the order of the usage text. */
export const optionEntries: readonly (readonly [OptionName, OptionSpec])[] = Object.entries(optionTable) as [
  OptionName,
  OptionSpec,
][];

/** The option as a user writes it, such as `--bind HOST:PORT`. */
export function signatureOf(name: OptionName, { value }: OptionSpec): string {
  return value === undefined ? `--${name}` : `--${name} ${value}`;
}

function asPath(text: string): string {
  return resolve(text);
}

/** Units of earlier daemons name a file of theirs, such as `/var/lib/forkd/state.json`. */
function asStateDir(text: string): string {
  const path = resolve(text);
  const isFile = path.endsWith('.json') || statSync(path, { throwIfNoEntry: false })?.isFile() === true;
  return isFile ? dirname(path) : path;
}

function asSwitch(text: string): boolean {
  return text === '1' || text === 'true';
}

function asAddress(text: string, option: string): Address {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535) throw new UsageError(`${option} '${text}' is not HOST:PORT.`);
  return { host, port };
}

/** A port alone is one of the loopback address. */
function asPort(text: string, option: string): Address {
  return asAddress(/^\d+$/.test(text) ? `${defaultListen.host}:${text}` : text, option);
}

function asHosts(text: string, option: string): string[] {
  const names = text.split(',').map((name) => name.trim());
  return names.filter((name) => {
    if (name === '' || /^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/i.test(name)) return name !== '';
    throw new UsageError(`${option} '${name}' is not the name of a host; give it without scheme and port.`);
  });
}

function asDomain(text: string, option: string): PortDomain {
  const [, scheme, name = '', port] = /^(?:(https?):\/\/)?([^:/,]+)(?::(\d{1,5}))?$/.exec(text) ?? [];
  if (name === '' || (port !== undefined && scheme === undefined) || Number(port) > 65_535) {
    throw new UsageError(`${option} must be a name, or http(s)://NAME[:PORT], it is '${text}'.`);
  }
  asHosts(name, option);
  if (scheme !== 'http' && scheme !== 'https') return { name, served: null };
  return { name, served: { scheme, port: Number(port ?? (scheme === 'https' ? 443 : 80)) } };
}

function asResolvers(text: string, option: string): string[] {
  const addresses = text.split(',').map((address) => address.trim());
  return addresses.map((address) => {
    const { host, port } = asAddress(address, option);
    if (isIP(host) === 0) throw new UsageError(`${option} '${address}' has no IP address.`);
    return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
  });
}

function countFrom(min: number): (text: string, option: string) => number {
  return (text, option) => {
    const count = Number(text);
    if (/^\d{1,9}$/.test(text) && count >= min) return count;
    throw new UsageError(`${option} must be a number of at least ${min}, it is '${text}'.`);
  };
}

function oneOf<Choice extends string>(choices: readonly Choice[]): (text: string, option: string) => Choice {
  return (text, option) => {
    const found = choices.find((choice) => choice === text);
    if (found !== undefined) return found;
    throw new UsageError(`${option} must be one of ${choices.join(', ')}, it is '${text}'.`);
  };
}
