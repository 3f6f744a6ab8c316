// Proves that the command line is read over the environment, and that what is wrong in it is refused with a sentence.
import { join } from 'node:path';

import { expect, test } from 'vitest';

import type { Options } from '../src/options.ts';
import { optionEnv, parseCommand, usage, UsageError } from '../src/options.ts';

const serve = (argv: string[], env: NodeJS.ProcessEnv = {}): Options => {
  const command = parseCommand(['serve', ...argv], env);
  if (command.run !== 'serve') throw new Error(command.run);
  return command.options;
};

test('defaults, environment, flags', () => {
  expect(serve(['--data-dir', '/d'])).toEqual({
    dataDir: '/d',
    snapshotRoot: '/d/store',
    socket: '/d/run/controller.sock',
    bind: { host: '127.0.0.1', port: 8889 },
    tokenFile: null,
    tls: null,
    auditLog: null,
    branchConcurrency: 4,
    engine: 'qemu',
    vmmPool: 4,
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
  expect(serve(['--state', '/x', '--data-dir', '/x/', '--audit-log', 'a'], {})).toMatchObject({
    dataDir: '/x',
    snapshotRoot: '/x/store',
    auditLog: join(process.cwd(), 'a'),
  });
  expect(serve([], { FORKD_TLS_CERT: '/c', FORKD_TLS_KEY: '/k' }).tls).toEqual({ cert: '/c', key: '/k' });
  expect(serve(['--tls-cert', '/c2', '--tls-key', '/k'], { FORKD_TLS_CERT: '/c' }).tls?.cert).toBe('/c2');
});

test('each option has a variable, and both are in the usage text', () => {
  for (const [flag, variable] of Object.entries(optionEnv)) {
    expect(usage.split('\n').find((line) => line.startsWith(`  --${flag} `))).toContain(variable);
  }
});

test.each([
  [['serve', '--branch-concurrency', '0'], "--branch-concurrency must be a number of at least 1, it is '0'."],
  [['serve', '--vmm-pool', '-1'], '--vmm-pool'],
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
