import { summarizeBranch, type BranchRow } from '../src/branch-summary.ts';
import type { Mode } from '../src/branch.ts';
import { summarizeChain, type ChainRow } from '../src/chain-summary.ts';
import { diskLoads, type DiskRow, summarizeDisk } from '../src/disk-summary.ts';
import { type ExecRow, summarizeExec } from '../src/exec.ts';
import { summarizeFork, type ForkRow } from '../src/fork-summary.ts';
import { type LoadRow, summarizeLoad } from '../src/load.ts';
import type { Documents } from '../src/results.ts';
import type { HostFacts } from '../src/run.ts';

const host: HostFacts = {
  measured_on: '2001-12-31',
  hostname: 'there',
  kernel: '6.1',
  cpu: 'a processor',
  cpus: 2,
  mem_mib: 24_105,
  load_average: 0.01,
  node: '20.19.0',
  qemu: '7.2.22',
  accelerator: 'tcg',
  accelerator_reason: 'It was asked for.',
};

export function branchRow(mode: Mode, pauseMs: number, more: Partial<BranchRow> = {}): BranchRow {
  return {
    mem_mib: 1536,
    private_mib: 64,
    storm: true,
    mode,
    iteration: 0,
    pause_us: pauseMs * 1e3,
    device_state_us: 500,
    arm_us: 1,
    scan_us: 2,
    settle_us: 3,
    settle_rounds: 1,
    capture_us: mode.startsWith('live') ? 50_000 : 0,
    touched_pages: 4,
    private_pages: 25_600,
    captured_pages: 25_000,
    captured_bytes: 25_000 * 4096,
    faults: 7,
    fault_wait_us_p50: 3,
    fault_wait_us_p99: 9,
    fault_wait_us_max: 30,
    round_trip_ms: 100,
    ready_ms: 30,
    durable_ms: 100,
    floor_before_us: 900,
    floor_after_us: 1100,
    guest_gap_ms: pauseMs * 1.5,
    guest_gap_ready_ms: pauseMs * 1.25,
    quiet_gap_ms: 0.1,
    writes_per_s_before: 1000,
    writes_per_s_during: null,
    writes_per_s_after: 900,
    ...more,
  };
}

const branchRows = [1, 1.1, 1.2].flatMap((pauseMs) => [
  branchRow('live-async', pauseMs),
  branchRow('diff', pauseMs * 90),
  branchRow('full', pauseMs * 250),
]);

const memory = (kib: number) => ({ private_kib: kib, shared_kib: 11_000, proportional_kib: kib + 50 });

/** 2 at once, two batches; and what they are held against. */
export const forkRows: ForkRow[] = [
  { kind: 'cold-boot', n: 1, batch: 0, child: 0, ms: 3000, private_kib: 140_000 },
  ...[0, 1].flatMap((batch) =>
    [0, 1].flatMap((child): ForkRow[] => [
      { kind: 'bare', n: 2, batch, child, ms: 30, ...(batch === 0 && memory(500)) },
      { kind: 'running', n: 2, batch, child, ms: 33, ...(batch === 0 && memory(600)) },
      { kind: 'first-exec', n: 2, batch, child, ms: 300 + batch * 50 + child, ...memory(3600) },
      { kind: 'pool', n: 2, batch, child, ms: 1.5 },
    ]),
  ),
];

const chainRows: ChainRow[] = [20, 0].flatMap((depth) =>
  [30, 31].map((ms, iteration) => ({
    depth,
    iteration,
    running_ms: ms + depth / 20,
    layers: depth + 1,
    extents: 270 + depth,
    mappings: 1 + depth * (2 - iteration),
  })),
);

const diskRows: DiskRow[] = [0, 1, 2].flatMap((iteration): DiskRow[] => [
  ...['1 MiB written', '1 GiB written'].flatMap((of): DiskRow[] => [
    { measure: 'pause', of, unit: 'ms', iteration, value: 1 + iteration / 10 },
    { measure: 'floor', of, unit: 'ms', iteration, value: 1 },
    { measure: 'ready', of, unit: 'ms', iteration, value: 30 },
  ]),
  ...diskLoads.flatMap((measure) =>
    ['raw file', 'disk', 'disk on deep stack'].map((of): DiskRow => ({
      measure,
      of,
      unit: 'MiB/s',
      iteration,
      value: 700 + iteration,
    })),
  ),
]);

const execRows: ExecRow[] = [1, 2, 3].flatMap((ms, iteration) => [
  { way: 'rest', iteration, ms: ms * 2 },
  { way: 'agent', iteration, ms },
]);

const loadRows: LoadRow[] = [1, 2, 3].flatMap((ms, iteration) => [
  { load: false, iteration, pause_us: ms * 1e3, ready_ms: 50 },
  { load: true, iteration, pause_us: ms * 1e3, ready_ms: 50 },
]);

/** Documents as a run writes them, in which every target is met. */
export function documents(): Documents {
  const common = { host, method: ['How it was made.'] };
  const figures = { answers_ms: [1, 2, 3, 4], errors: 0, elapsed_ms: 8 };
  return {
    branch: {
      ...common,
      rows: branchRows,
      summary: summarizeBranch(branchRows),
      audited: { branches: 9, pages: 589_824, differing_pages: 0 },
    },
    fork: { ...common, rows: forkRows, summary: summarizeFork(forkRows) },
    chain: { ...common, rows: chainRows, summary: summarizeChain(chainRows) },
    disk: { ...common, rows: diskRows, summary: summarizeDisk(diskRows) },
    exec: { ...common, rows: execRows, summary: [summarizeExec(execRows)] },
    load: { ...common, rows: loadRows, summary: [summarizeLoad(loadRows, figures)] },
    wp: {
      region_mib: 512,
      writers: 1,
      pages_by_copy: 130_000,
      pages_by_fault: 1_072,
      violations: 0,
      lost_writes: 0,
      fault_wait_us: { p50: 10.123_456, p99: 30, max: 99 },
      bare_round_trip_us: { p50: 5, p99: 15, max: 50 },
      fault_wait_ratio: { p50: 2.024_691, p99: 2 },
      copy_mib_per_s: 1300,
      quiet_copy_mib_per_s: 1500,
      readv_mib_per_s: 2000,
    },
  };
}
