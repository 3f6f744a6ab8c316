/** Proves how rules of a network are read, what a reader of the log is told, and that a snapshot that lies opens nothing. */

import { deflateRawSync } from 'node:zlib';
import { limits } from '@forkd/api';
import type { FlowRecord } from '@forkd/engine';
import { expect, test } from 'vitest';
import { networkPresets } from '../src/runtime/network-presets.ts';
import { policyOf } from '../src/runtime/network-rules.ts';
import { FlowLog } from '../src/state/flow-log.ts';
import { packInherited, snapshotNetworkOf, unpackInherited } from '../src/state/snapshot-network.ts';

const allowed = (rule: string) => policyOf({ allow: [rule] }).rules;

test('a policy without words has no rules, so nothing is reached', () => {
  expect(policyOf({})).toEqual({ rules: [] });
  expect(policyOf({ access: 'none' })).toEqual({ rules: [] });
});

test('`all` is one rule, and what is denied is denied for both protocols', () => {
  const any = { kind: 'any' };
  expect(policyOf({ access: 'all', deny: ['example.com'] }).rules).toEqual([
    { text: 'example.com', verdict: 'deny', to: { kind: 'name', name: 'example.com' }, ports: [], transport: null },
    { text: 'all', verdict: 'allow', to: any, ports: [], transport: null },
  ]);
});

test.each([
  ['PyPI.org', { to: { kind: 'name', name: 'pypi.org' }, ports: [], transport: 'tcp' }],
  ['pypi.org:443', { to: { kind: 'name', name: 'pypi.org' }, ports: [[443, 443]], transport: 'tcp' }],
  ['*.example.com:80-90', { to: { kind: 'below', name: 'example.com' }, ports: [[80, 90]], transport: 'tcp' }],
  [
    'time.example.com:123/udp',
    { to: { kind: 'name', name: 'time.example.com' }, ports: [[123, 123]], transport: 'udp' },
  ],
  ['10.1.2.3', { to: { kind: 'cidr', cidr: '10.1.2.3/32' }, ports: [], transport: null }],
  ['10.1.0.0/16/tcp', { to: { kind: 'cidr', cidr: '10.1.0.0/16' }, ports: [], transport: 'tcp' }],
  ['10.1.0.0/16:53/udp', { to: { kind: 'cidr', cidr: '10.1.0.0/16' }, ports: [[53, 53]], transport: 'udp' }],
  ['*', { to: { kind: 'any' }, ports: [], transport: null }],
])('the rule %s is read', (text, rule) => {
  expect(allowed(text)).toEqual([{ text, verdict: 'allow', ...rule }]);
});

test.each([
  '',
  'localhost',
  'githb',
  '*.',
  '**.example.com',
  'a.*.example.com',
  '-a.example.com',
  'example.com.',
  'exa mple.com',
  'example.com/../x',
  'https://example.com',
  'example.com:0',
  'example.com:65536',
  'example.com:90-80',
  'example.com:443:443',
  'example.com/sctp',
  '10.1.2.3/16',
  '10.0.0.0/33',
  '10.1.2',
  '10.1.2.3.4',
  '::1',
  '[::1]:80',
  `${'a'.repeat(64)}.example.com`,
])('%j is refused, with itself in the sentence', (rule) => {
  expect(() => allowed(rule)).toThrow(JSON.stringify(rule));
  expect(() => policyOf({ deny: [rule] })).toThrow(/network rule/);
});

test('a preset stands for its rules, which the log names after it', () => {
  for (const [name, rules] of Object.entries(networkPresets)) {
    expect(allowed(name).map(({ text }) => text)).toEqual(rules.map((rule) => `${name}: ${rule}`));
  }
  expect(allowed('constructor.example').length).toBe(1);
  expect(() => allowed('constructor')).toThrow(/no target/);
});

const flow = (sandbox: string, port: number): FlowRecord => ({
  sandbox,
  at_ms: 1,
  phase: 'opened',
  direction: 'out',
  transport: 'tcp',
  name: null,
  address: '203.0.113.5',
  port,
  rule: null,
  reason: null,
  sent_bytes: 0,
  received_bytes: 0,
  ms: 0,
  lost: 0,
});

test('a reader of the log gets what is kept, then what comes, of its sandbox only', async () => {
  const log = new FlowLog();
  for (const [sandbox, port] of [
    ['a', 1],
    ['b', 2],
    ['a', 3],
  ] as const)
    log.add(flow(sandbox, port));
  const over = new AbortController();
  const ports: number[] = [];
  for await (const { port } of log.read({ sandbox: 'a', follow: true }, over.signal)) {
    ports.push(port);
    if (port === 3) log.add(flow('a', 4));
    if (port === 4) over.abort();
  }
  expect(ports).toEqual([1, 3, 4]);
});

test('a reader that was too slow is told how much it has missed', async () => {
  const log = new FlowLog();
  log.add(flow('a', 1));
  const flows = log.read({ sandbox: undefined, follow: true }, new AbortController().signal);
  expect((await flows.next()).value).toMatchObject({ port: 1, lost: 0 });
  for (let count = 0; count < limits.networkFlowsKeptMax + 7; count += 1) log.add(flow('a', 2));
  expect((await flows.next()).value).toMatchObject({ port: 2, lost: 7 });
  expect((await flows.next()).value).toMatchObject({ port: 2, lost: 0 });
  await flows.return(undefined);
});

test('what children inherit is kept whole, or not at all if it is too long', async () => {
  const names = [{ offset: 1, name: 'pypi.org' }];
  const packed = await packInherited({ names, connections: [] });
  expect(await unpackInherited(packed)).toEqual({ names, connections: [] });
  expect(await unpackInherited(null)).toBeNull();
  let seed = 1;
  const noise = Array.from({ length: 60_000 }, (_, offset) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return { offset, name: `${seed.toString(36)}.test` };
  });
  expect(await packInherited({ names: noise, connections: [] })).toBeNull();
});

test('a snapshot whose network cannot be read has a closed one, and a text that unpacks to too much is refused', async () => {
  const closed = { policy: {}, inherited: null };
  expect(snapshotNetworkOf(false, closed)).toBeNull();
  for (const stored of [undefined, null, 7, { policy: { access: 'everything' }, inherited: null }, { policy: {} }]) {
    expect(snapshotNetworkOf(true, stored)).toEqual(closed);
  }
  const bomb = deflateRawSync(Buffer.alloc(64 * 1024 * 1024)).toString('base64');
  await expect(unpackInherited(bomb)).rejects.toThrow('larger than');
  await expect(unpackInherited('no base64 of anything')).rejects.toThrow(/invalid|unexpected/);
});
