import { setTimeout as delay } from 'node:timers/promises';
import type { Accelerator, BranchMode, Vm } from '@forkd/engine';
import { PayloadLab, type Point, whyNoKvmDevice } from '@forkd/testing';
import { BareImage } from './bare.ts';
import type { Run } from './run.ts';
import { grouped, round, settled, type Summary, summarize } from './statistics.ts';

/** Name of guests without a kernel in results. KVM runs them even where it runs no Linux. */
const GUEST = 'payload (no kernel), KVM';

/** Steps between reports. Rare reports cost the guest little time; a pause during a report is not seen. */
const REPORT_STEPS = 65_536;
const PAGES_PER_MIB = 256;
/** Memory below the first page that the payload writes. */
const RESERVED_MIB = 4;
const MARGIN_MS = 60;
const FORK_MEM_MIB = 256;
const FORK_PAGES = 4096;

/** The same measurements of a guest under KVM, on a host where Linux guests are emulated. */
export interface PayloadPart<Row, Entry> {
  guest: string;
  cpu_model: string;
  method: string[];
  rows: Row[];
  summary: Entry[];
}

export interface PayloadBranchRow {
  guest: string;
  mem_mib: number;
  /** Memory that the guest rewrites continuously. */
  private_mib: number;
  mode: BranchMode;
  iteration: number;
  pause_us: number;
  device_state_us: number;
  floor_before_us: number;
  floor_after_us: number;
  ready_ms: number;
  durable_ms: number;
  faults: number;
  fault_wait_us_max: number;
  guest_gap_ms: number;
  quiet_gap_ms: number;
}

interface PayloadBranchEntry {
  guest: string;
  mode: BranchMode;
  pause_ms: Summary;
  floor_ms: Summary;
  ratio_p50: number;
  ready_ms: Summary;
  durable_ms: Summary;
  guest_gap_ms: Summary;
  quiet_gap_ms: Summary;
}

export interface PayloadForkRow {
  guest: string;
  kind: 'bare' | 'running' | 'pool';
  n: number;
  batch: number;
  child: number;
  ms: number;
}

interface PayloadForkEntry {
  guest: string;
  n: number;
  running_ms: Summary;
  floor_ms: number;
  ratio: number;
  pool_running_ms: Summary;
  pool_ratio: number;
}

export type PayloadBranches = PayloadPart<PayloadBranchRow, PayloadBranchEntry>;
export type PayloadForks = PayloadPart<PayloadForkRow, PayloadForkEntry>;

const BRANCH_METHOD = [
  'The guest is a program without a kernel, run by KVM, which rewrites and checks the memory that it has written; modes by turns.',
  'guest gap: the longest time between two pages that it writes, by its processor’s counter, from the request until the branch is durable. quiet gap: the same without a branch.',
];
const FORK_METHOD = [
  'The guest is a program without a kernel, run by KVM. running and floor are as for the Linux guest, by turns.',
];

/** True if payloads are to be measured: KVM opens, but Linux guests do not run under it. */
export async function measuresPayload(accelerator: Accelerator): Promise<boolean> {
  return accelerator === 'tcg' && (await whyNoKvmDevice()) === null;
}

export async function payloadBranches(
  setting: { modes: readonly BranchMode[]; iterations: number; memMib: number; privateMib: number },
  run: Run,
): Promise<PayloadBranches> {
  const { modes, iterations, memMib } = setting;
  const privateMib = Math.min(setting.privateMib, memMib - RESERVED_MIB);
  await using lab = await PayloadLab.start({
    accelerator: 'kvm',
    pages: privateMib * PAGES_PER_MIB,
    reportSteps: REPORT_STEPS,
  });
  const { vm, template } = await templateOf(lab, memMib);
  const rows: PayloadBranchRow[] = [];
  for (let iteration = 0; iteration < iterations; iteration += 1) {
    for (const mode of modes) {
      run.signal.throwIfAborted();
      const figures = await branchOnce(lab, vm, template, mode, run.signal);
      rows.push({ guest: GUEST, mem_mib: memMib, private_mib: privateMib, mode, iteration, ...figures });
    }
    run.progress(`branch: ${iteration + 1} of ${iterations}, ${GUEST}`);
  }
  const summary = grouped(rows, (row) => row.mode).map(branchEntry);
  return { guest: GUEST, cpu_model: vm.record.machine.cpu_model, method: BRANCH_METHOD, rows, summary };
}

/** A guest that was restored, as branched guests in practice are, and the template that it was restored from. */
async function templateOf(lab: PayloadLab, memMib: number): Promise<{ vm: Vm; template: Point }> {
  const booted = await lab.boot(memMib);
  await lab.console(booted).goesOn(2);
  const template = lab.point(booted, await booted.branch({ mode: 'full', resume: false }));
  await lab.kill(booted);
  const vm = await lab.restore(template);
  await lab.console(vm).goesOn(2);
  return { vm, template };
}

async function branchOnce(lab: PayloadLab, vm: Vm, template: Point, mode: BranchMode, signal: AbortSignal) {
  await delay(MARGIN_MS, undefined, { signal });
  const floorBefore = (await vm.floor()).pause_us;
  await delay(MARGIN_MS, undefined, { signal });
  let [requestedMs, readyMs, durableMs] = [0, 0, 0];
  let done: Awaited<ReturnType<Vm['branch']>> | undefined;
  const gapMs = await gapDuring(lab, vm, async () => {
    requestedMs = performance.now();
    const onEvent = ({ stage }: { stage: string }) => void (stage === 'ready' && (readyMs = performance.now()));
    done = await vm.branch({ mode, resume: true }, { signal, onEvent });
    durableMs = performance.now();
  });
  if (!done) throw new Error('a branch has an outcome');
  const { stats } = done;
  await lab.discard(done, template);
  await delay(MARGIN_MS, undefined, { signal });
  const floorAfter = (await vm.floor()).pause_us;
  const quietMs = await gapDuring(lab, vm, () => delay(durableMs - requestedMs, undefined, { signal }));
  return {
    pause_us: stats.pause_us,
    device_state_us: stats.device_state_us,
    floor_before_us: floorBefore,
    floor_after_us: floorAfter,
    ready_ms: round(readyMs - requestedMs),
    durable_ms: round(durableMs - requestedMs),
    faults: stats.faults,
    fault_wait_us_max: stats.fault_wait_ns_max / 1e3,
    guest_gap_ms: round(gapMs),
    quiet_gap_ms: round(quietMs),
  };
}

/** The longest time that the guest stood still while `act` was under way, including the first and the last report. */
async function gapDuring(lab: PayloadLab, vm: Vm, act: () => Promise<void>): Promise<number> {
  const console = lab.console(vm);
  const from = (await console.steps()).length;
  await act();
  await console.goesOn(1);
  return Math.max(...(await console.gapsMs(lab.pager.tscKhz, from)));
}

function branchEntry(rows: readonly PayloadBranchRow[]): PayloadBranchEntry {
  const all = (of: (row: PayloadBranchRow) => number): Summary => summarize(rows.map(of));
  const pause = all((row) => row.pause_us / 1e3);
  const floor = summarize(rows.flatMap((row) => [row.floor_before_us / 1e3, row.floor_after_us / 1e3]));
  return {
    guest: GUEST,
    mode: rows[0]?.mode ?? 'live',
    pause_ms: pause,
    floor_ms: floor,
    ratio_p50: round(pause.p50 / floor.p50),
    ready_ms: all((row) => row.ready_ms),
    durable_ms: all((row) => row.durable_ms),
    guest_gap_ms: all((row) => row.guest_gap_ms),
    quiet_gap_ms: all((row) => row.quiet_gap_ms),
  };
}

export async function payloadForks(counts: readonly number[], iterations: number, run: Run): Promise<PayloadForks> {
  const rows: PayloadForkRow[] = [];
  let cpuModel = '';
  for (const n of counts) {
    const options = { accelerator: 'kvm', pages: FORK_PAGES, reportSteps: REPORT_STEPS } as const;
    await using lab = await PayloadLab.start(options);
    // The last VMM of a pool loads nothing ahead.
    await using pool = await PayloadLab.start({ ...options, poolMax: n + 1 });
    const { vm, template } = await templateOf(lab, FORK_MEM_MIB);
    cpuModel = vm.record.machine.cpu_model;
    await lab.kill(vm);
    const { vm: other, template: poolTemplate } = await templateOf(pool, FORK_MEM_MIB);
    await pool.kill(other);
    await using bare = await BareImage.make(lab, template);
    const batches = Math.max(1, Math.ceil(iterations / n));
    for (let batch = 0; batch < batches; batch += 1) {
      run.signal.throwIfAborted();
      const add = (kind: PayloadForkRow['kind'], times: readonly number[]) =>
        rows.push(...times.map((ms, child) => ({ guest: GUEST, kind, n, batch, child, ms: round(ms) })));
      const alone = await bare.restore(n, run.signal);
      await settled(alone.map((one) => bare.end(one.vm)));
      add(
        'bare',
        alone.map(({ ms }) => ms),
      );
      add('running', await restoreAll(lab, template, n));
      await pool.fill(poolTemplate, n + 1);
      add('pool', await restoreAll(pool, poolTemplate, n));
      run.progress(`fork: ${n} at once, ${batch + 1} of ${batches}, ${GUEST}`);
    }
  }
  const summary = grouped(rows, (row) => row.n).map(forkEntry);
  return { guest: GUEST, cpu_model: cpuModel, method: FORK_METHOD, rows, summary };
}

/** Time until each of n children ran, in ms since they were requested. The children are ended. */
async function restoreAll(lab: PayloadLab, point: Point, n: number): Promise<number[]> {
  const start = performance.now();
  const children = await settled(
    Array.from({ length: n }, async () => ({ vm: await lab.restore(point), ms: performance.now() - start })),
  );
  await settled(children.map(({ vm }) => lab.kill(vm)));
  return children.map(({ ms }) => ms);
}

function forkEntry(rows: readonly PayloadForkRow[]): PayloadForkEntry {
  const times = (kind: PayloadForkRow['kind']): Summary =>
    summarize(rows.filter((row) => row.kind === kind).map((row) => row.ms));
  const [running, pool, floor] = [times('running'), times('pool'), times('bare').p50];
  return {
    guest: GUEST,
    n: rows[0]?.n ?? 0,
    running_ms: running,
    floor_ms: floor,
    ratio: round(running.p50 / floor),
    pool_running_ms: pool,
    pool_ratio: round(pool.p50 / floor),
  };
}
