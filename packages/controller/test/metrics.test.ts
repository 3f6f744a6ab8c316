// Proves that what a scrape returns is what Prometheus reads, with the numbers that were put in, and that a scrape neither
// waits for slow VMs nor asks them more often than it must: a strict reader of the format, and VMs that count.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Store } from '@forkd/store';
import { expect, test } from 'vitest';
import { limits } from '../src/limits.ts';
import { Exposition } from '../src/observe/exposition.ts';
import { GaugeReader } from '../src/observe/gauges.ts';
import { type Gauges, Metrics } from '../src/observe/metrics.ts';
import { Catalog } from '../src/state/catalog.ts';
import { EventLog } from '../src/state/events.ts';
import type { Registry } from '../src/state/registry.ts';
import { version } from '../src/version.ts';
import { HttpLab } from './http-support.ts';
import { parsePrometheus } from './prometheus-text.ts';
import { scratch } from './support.ts';

const layers = {
  budget_bytes: 100,
  mapped_bytes: 10,
  unmapped_bytes: 20,
  pending_bytes: 30,
  view_bytes: 5,
  layers: 6,
  let_go: 7,
  loaded_again: 8,
  merged: 9,
  merged_in_forks: 1,
  merged_in_forks_us: 2,
};

const gauges: Gauges = {
  snapshots: 3,
  sandboxes: 2,
  terminalViewers: 4,
  branchesInFlight: 1,
  branchCap: 4,
  layers,
  diskOwnBytes: null,
  diskSharedBytes: null,
  privateBytes: null,
  sharedBytes: 7,
  auditLinesDropped: 0,
};

function serving(read: () => Promise<Gauges> = async () => gauges) {
  const metrics = new Metrics();
  metrics.readFrom(read);
  return metrics;
}

const valueOf = (text: string, name: string, labels: Record<string, string> = {}) => {
  const family = parsePrometheus(text).get(name.replace(/_(bucket|sum|count)$/, '')) ?? parsePrometheus(text).get(name);
  return family?.samples.find(
    (sample) => sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
  )?.value;
};

test('the names that scripts know are there, and what is not known has no value', async () => {
  const text = await serving().scrape();
  expect(valueOf(text, 'forkd_build_info', { version })).toBe(1);
  expect(valueOf(text, 'forkd_snapshots_total')).toBe(3);
  expect(valueOf(text, 'forkd_sandboxes_active')).toBe(2);
  expect(valueOf(text, 'forkd_branches_in_flight')).toBe(1);
  expect(valueOf(text, 'forkd_branch_concurrency_cap')).toBe(4);
  expect(valueOf(text, 'forkd_sandbox_shared_bytes')).toBe(7);
  expect(valueOf(text, 'forkd_layers')).toBe(6);
  expect(valueOf(text, 'forkd_layer_bytes')).toBe(60);
  expect(valueOf(text, 'forkd_layer_unmapped_bytes')).toBe(20);
  expect(valueOf(text, 'forkd_layers_loaded_again_total')).toBe(8);
  expect(valueOf(text, 'forkd_sandbox_private_bytes')).toBeUndefined();
  expect(valueOf(text, 'process_resident_memory_bytes')).toBeGreaterThan(1e6);
  expect(valueOf(text, 'process_open_fds')).toBeGreaterThan(2);
  expect(Math.abs((valueOf(text, 'process_start_time_seconds') ?? 0) - Date.now() / 1000)).toBeLessThan(3600);
});

test('what happened is counted and measured', async () => {
  const metrics = serving();
  metrics.forked();
  metrics.child({ forkMs: 3, readyMs: 70_000 });
  metrics.child({ forkMs: 30, readyMs: 300 });
  metrics.forkFailed();
  metrics.sandboxEnded('crashed');
  metrics.executed(12);
  metrics.branched('live', { pause_us: 1200, capture_ms: 40, faults: 9 });
  metrics.branched('live', {});
  metrics.branchFailed('diff');
  const text = await metrics.scrape();
  expect(valueOf(text, 'forkd_forks_total', { result: 'ok' })).toBe(1);
  expect(valueOf(text, 'forkd_forks_total', { result: 'failed' })).toBe(1);
  expect(valueOf(text, 'forkd_sandboxes_ended_total', { reason: 'crashed' })).toBe(1);
  expect(valueOf(text, 'forkd_sandboxes_ended_total', { reason: 'killed' })).toBe(0);
  expect(valueOf(text, 'forkd_fork_seconds_bucket', { le: '0.005' })).toBe(1);
  expect(valueOf(text, 'forkd_fork_ready_seconds_bucket', { le: '60' })).toBe(1);
  expect(valueOf(text, 'forkd_fork_ready_seconds_bucket', { le: '+Inf' })).toBe(2);
  expect(valueOf(text, 'forkd_fork_ready_seconds_sum')).toBeCloseTo(70.3);
  expect(valueOf(text, 'forkd_exec_seconds_count')).toBe(1);
  expect(valueOf(text, 'forkd_branches_total', { mode: 'live', result: 'ok' })).toBe(2);
  expect(valueOf(text, 'forkd_branches_total', { mode: 'diff', result: 'failed' })).toBe(1);
  expect(valueOf(text, 'forkd_branch_pause_seconds_sum', { mode: 'live' })).toBeCloseTo(0.0012);
  expect(valueOf(text, 'forkd_branch_capture_seconds_count', { mode: 'live' })).toBe(1);
  expect(valueOf(text, 'forkd_branch_faults_total')).toBe(9);
});

test('label values and help may hold anything', () => {
  const all = new Exposition();
  const odd = 'a "quoted"\\ line\nand another {x="y"}, z';
  all.counter('odd_total', 'One\nline \\ more.').add(2, { odd, plain: 'p' });
  const family = parsePrometheus(all.text()).get('odd_total');
  expect(family?.samples).toEqual([{ name: 'odd_total', labels: { odd, plain: 'p' }, value: 2 }]);
  expect(() => all.counter('odd_total', 'Again.')).toThrow('odd_total');
  expect(() => all.counter('Odd-Name', 'Wrong.')).toThrow('Odd-Name');
});

test('requests are measured by the pattern of their route', async () => {
  const metrics = serving();
  const lab = await HttpLab.serve({ getSandbox: () => ({}) }, undefined, null, { metrics });
  await lab.ask('GET', '/v1/sandboxes/sb-1');
  await lab.ask('GET', '/v1/sandboxes/sb-2');
  await lab.ask('GET', '/v1/sandboxes/sb-2/nothing');
  await lab.ask('POST', '/v1/sandboxes', { body: '{}', tcp: true });
  const reply = await lab.ask('GET', '/metrics');
  expect([reply.status, reply.headers['content-type']]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8']);
  const counts = (labels: Record<string, string>) => valueOf(reply.text, 'forkd_http_request_seconds_count', labels);
  expect(counts({ route: '/v1/sandboxes/:id', method: 'GET', status: '200' })).toBe(2);
  expect(counts({ route: 'none', method: 'GET', status: '404' })).toBe(1);
  expect(counts({ route: '/v1/sandboxes', method: 'POST', status: '400' })).toBe(1);
  expect(reply.text).not.toContain('sb-2');
});

test('a thousand sandboxes whose VMs answer slowly hold no scrape up, and are not asked twice at once', async () => {
  const dir = join(await scratch(), 'store');
  await mkdir(dir);
  const housekeeping = { request: () => undefined };
  const catalog = new Catalog({ store: await Store.open(dir), events: new EventLog(), housekeeping });
  let asked = 0;
  let atOnce = 0;
  let atOnceMax = 0;
  const answers: (() => void)[] = [];
  const memory = async () => {
    asked += 1;
    atOnceMax = Math.max(atOnceMax, (atOnce += 1));
    await new Promise<void>((resolve) => answers.push(resolve));
    atOnce -= 1;
    return { private_bytes: 10, shared_bytes: 100 };
  };
  const sandboxes = Array.from({ length: 1000 }, (_, n) => ({
    id: `sb-${n}`,
    branching: null,
    vm: { memory, diskUse: async () => null },
  }));
  const registry = { list: () => sandboxes, all: () => sandboxes } as unknown as Registry;
  const pager = {
    layerMemory: async () => layers,
  };
  const vmm = { pagerIfUp: () => pager } as never;
  const reader = new GaugeReader({ catalog, registry, vmm, branches: { max: 4 }, audit: null });
  const early = await Promise.all([reader.read(), reader.read()]);
  expect(early.map(({ sandboxes: n, privateBytes }) => [n, privateBytes])).toEqual([
    [1000, null],
    [1000, null],
  ]);
  expect(asked).toBe(limits.gaugeParallelism);
  const release = setInterval(() => answers.splice(0).forEach((answer) => answer()), 0);
  try {
    await expect
      .poll(() => reader.read(), { timeout: 30_000 })
      .toMatchObject({ privateBytes: 10_000, sharedBytes: 100_000, layers, snapshots: 0 });
  } finally {
    clearInterval(release);
  }
  expect([asked, atOnceMax]).toEqual([1000, limits.gaugeParallelism]);
  // The answer is kept.
  await reader.read();
  expect(asked).toBe(1000);
});
