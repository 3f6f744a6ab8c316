// Proves that the command line is read over the environment, and that what is wrong in it is refused with a sentence.
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { optionTable } from '../src/option-table.ts';
import { type Options, parseCommand, usage } from '../src/options.ts';
import { UsageError } from '../src/usage-error.ts';

const serve = (argv: string[], env: NodeJS.ProcessEnv = {}): Options => {
  const command = parseCommand(['serve', ...argv], env);
  if (command.run !== 'serve') throw new Error(command.run);
  return command.options;
};

test('defaults, environment, flags', () => {
  expect(serve(['--data-dir', '/d'])).toEqual({
    dataDir: '/d',
    snapshotRoot: '/d/store',
    resolvers: [],
    socket: '/d/run/controller.sock',
    bind: { host: '127.0.0.1', port: 8889 },
    e2b: null,
    tokenFile: null,
    tls: null,
    allowHosts: [],
    portDomain: { name: 'localhost', served: null },
    auditLog: null,
    branchConcurrency: 4,
    engine: 'qemu',
    vmmPool: 4,
    layerCacheMib: null,
    pruneOlderThanSecs: null,
    pruneKeep: null,
    idleExitSecs: null,
    logLevel: 'info',
  });
  const env = {
    FORKD_DATA_DIR: '/e',
    FORKD_BIND: '[::1]:1',
    FORKD_BRANCH_CONCURRENCY: '2',
    FORKD_IDLE_EXIT_SECS: '9',
    FORKD_VMM_POOL: '0',
  };
  expect(serve([], env)).toMatchObject({
    dataDir: '/e',
    bind: { host: '::1', port: 1 },
    branchConcurrency: 2,
    vmmPool: 0,
    idleExitSecs: 9,
  });
  expect(
    serve(['--bind', 'localhost:2', '--branch-concurrency=3', '--vmm-pool', '4', '--socket', '/s'], env),
  ).toMatchObject({
    bind: { host: 'localhost', port: 2 },
    branchConcurrency: 3,
    vmmPool: 4,
    socket: '/s',
  });
  expect(serve(['--layer-cache-mib', '0'], { FORKD_LAYER_CACHE_MIB: '9' }).layerCacheMib).toBe(0);
  expect(serve([], { FORKD_LAYER_CACHE_MIB: '9' }).layerCacheMib).toBe(9);
  expect(serve([], { FORKD_ENGINE: 'firecracker' })).toMatchObject({ engine: 'firecracker', vmmPool: 0 });
  expect(serve(['--engine', 'qemu'], { FORKD_ENGINE: 'firecracker' })).toMatchObject({ engine: 'qemu', vmmPool: 4 });
  expect(serve(['--no-tcp'], env).bind).toBeNull();
  expect(serve(['--bind', '0.0.0.0:8889', '--token-file', '/t'], {})).toMatchObject({
    bind: { host: '0.0.0.0' },
    tokenFile: '/t',
  });
  expect(parseCommand(['--help'], {}).run).toBe('help');
});

test('where things are, by our names and by forkd’s', () => {
  const env = { FORKD_STATE: '/st', FORKD_SNAPSHOT_ROOT: '/snaps', FORKD_AUDIT_LOG: '/a', FORKD_TOKEN_FILE: '/t' };
  expect(serve([], env)).toMatchObject({
    dataDir: '/st',
    snapshotRoot: '/snaps',
    socket: '/st/run/controller.sock',
    auditLog: '/a',
    tokenFile: '/t',
  });
  // A file of an earlier daemon names the directory that it is in, whether it exists or not.
  for (const file of ['/var/lib/forkd/state.json', fileURLToPath(import.meta.url)]) {
    expect(serve(['--state', file], {})).toMatchObject({ dataDir: dirname(file) });
  }
  expect(serve(['--state', '/x', '--data-dir', '/x/', '--audit-log', 'a'], {})).toMatchObject({
    dataDir: '/x',
    snapshotRoot: '/x/store',
    auditLog: join(process.cwd(), 'a'),
  });
  expect(serve([], { FORKD_TLS_CERT: '/c', FORKD_TLS_KEY: '/k' }).tls).toEqual({ cert: '/c', key: '/k' });
  expect(serve(['--tls-cert', '/c2', '--tls-key', '/k'], { FORKD_TLS_CERT: '/c' }).tls?.cert).toBe('/c2');
});

test('the usage text has a line for each option, with its default and its variable', () => {
  const lines = usage.split('\n').filter((line) => line.startsWith('  --'));
  expect(lines.map((line) => /^ {2}--([a-z0-9-]+)/.exec(line)?.[1])).toEqual([...Object.keys(optionTable), 'help']);
  expect(lines).toContain('  --branch-concurrency N    branches at the same time (4, FORKD_BRANCH_CONCURRENCY)');
  expect(lines).toContain('  --no-tcp                  serve the unix socket only (FORKD_NO_TCP=1)');
});

test('the domain of ports is a name, or the address of a proxy in front of it', () => {
  const domain = (text: string) => serve(['--port-domain', text]).portDomain;
  expect(domain('ports.example')).toEqual({ name: 'ports.example', served: null });
  expect(domain('https://ports.example').served).toEqual({ scheme: 'https', port: 443 });
  expect(domain('http://ports.example:81').served).toEqual({ scheme: 'http', port: 81 });
  for (const wrong of ['', 'a,b', 'ports.example:81', 'ftp://a', 'https://a/b', 'https://a:65536', '*.a']) {
    expect(() => domain(wrong)).toThrow('--port-domain');
  }
});

test('a flag is on by its option, and by 1 or true in its variable', () => {
  expect(serve(['--no-tcp'], {}).bind).toBeNull();
  expect(serve([], { FORKD_NO_TCP: '1' }).bind).toBeNull();
  expect(serve([], { FORKD_NO_TCP: 'true' }).bind).toBeNull();
  expect(serve([], { FORKD_NO_TCP: '0' }).bind).not.toBeNull();
  expect(serve([], { FORKD_NO_TCP: '' }).bind).not.toBeNull();
});

test('a wrong variable is refused by the name of its option, and matters to serve only', () => {
  const env = { FORKD_DATA_DIR: '/d', FORKD_VMM_POOL: 'all' };
  expect(() => serve([], env)).toThrow("--vmm-pool must be a number of at least 0, it is 'all'.");
  expect(parseCommand(['probe', 'accelerator'], env)).toEqual({ run: 'probe accelerator', dataDir: '/d' });
});

test.each([
  [['serve', '--branch-concurrency', '0'], "--branch-concurrency must be a number of at least 1, it is '0'."],
  [['serve', '--vmm-pool', '-1'], '--vmm-pool'],
  [['serve', '--layer-cache-mib', 'all'], "--layer-cache-mib must be a number of at least 0, it is 'all'."],
  [['serve', '--branch-concurrency', 'many'], "it is 'many'"],
  [['serve', '--bind', '0.0.0.0:8889'], 'not a loopback address'],
  [['serve', '--bind', '[::]:8889'], 'not a loopback address'],
  [['serve', '--bind', '127.0.0.1'], 'is not HOST:PORT'],
  [['serve', '--bind', '127.0.0.1:70000'], 'is not HOST:PORT'],
  [['serve', '--engine', 'xen'], "--engine must be one of qemu, firecracker, it is 'xen'."],
  [['serve', '--engine', 'firecracker', '--vmm-pool', '2'], "--vmm-pool '2'"],
  [['serve', '--log-level', 'loud'], '--log-level must be one of'],
  [['serve', '--tls-cert', '/c'], "--tls-cert '/c' needs a --tls-key."],
  [['serve', '--tls-key', '/k'], "--tls-key '/k' needs a --tls-cert."],
  [['serve', '--data-dir', '/a', '--state', '/b'], 'two names for one directory'],
  [['serve', '--tls', '/t'], "Unknown option '--tls'"],
  [['start'], "'start' is not a command"],
  [[], "'' is not a command"],
])('%j is refused', (argv, sentence) => {
  expect(() => parseCommand(argv, {})).toThrow(UsageError);
  expect(() => parseCommand(argv, {})).toThrow(sentence);
});
