import { setTimeout as delay } from 'node:timers/promises';
import type { BranchDone, BranchMode, BranchStats } from '@forkd/engine';
import { type Guest, installStorm, Lab, type Point, sh } from '@forkd/testing';
import { type BranchEntry, type BranchRow, summarizeBranch } from './branch-summary.ts';
import { BenchError } from './errors.ts';
import { guestView, type Instants, quietGap } from './guest-view.ts';
import { measuresPayload, type PayloadBranches, payloadBranches } from './payload.ts';
import { hostFacts, type Report, type Run } from './run.ts';
import { rotated, round } from './statistics.ts';
import { clockStops, type Mark, Ticker } from './ticker.ts';

/** `live-sync` waits until the branch is durable, `live-async` until the source runs again; the branch is the same. */
export type Mode = 'live-sync' | 'live-async' | 'diff' | 'full';

/** A guest that is branched in several modes by turns. */
export interface BranchSetting {
  modes: readonly Mode[];
  /** Number of branches in each mode. */
  iterations: number;
  memMib: number;
  /** Memory that the guest has written, in addition to that of its kernel. */
  privateMib: number;
  /** True if the guest keeps rewriting that memory, as fast as it can. */
  storm: boolean;
}

/** Branches that are not timed. Each of their pages was compared with memory as it was in the pause. */
export interface AuditTally {
  branches: number;
  pages: number;
  differing_pages: number;
}

export interface BranchReport extends Report<BranchRow, BranchEntry> {
  audited: AuditTally;
  /** The same measurements of a guest without a kernel under KVM, where Linux guests do not run under KVM. */
  payload?: PayloadBranches;
}

/** Rounds of timed branches between two rounds of audited ones. */
const ROUNDS_PER_AUDIT = 4;

/** Time before each branch and each floor, in which the guest recovers from the last mark. */
const MARGIN_MS = 60;

/** Memory that the guest keeps for itself. */
const RESERVE_MIB = 16;

const METHOD = [
  'One guest with one processor; all modes in one run, by turns, in an order that rotates; the floor before and after each branch.',
  'pause: from before the pager sends stop until QEMU has answered cont, in all modes by the same code.',
  'floor: stop + device state + run over the monitor and nothing else, on the same guest; measured right before and right after each branch.',
  'ratio_p50 is the pause p50 over the floor p50, ratio_p99 the pause p99 over the floor p50.',
  'round trip: from the request until the branch is durable; for live-async until the source runs again. ready and durable are counted from the request.',
  'guest gap: the longest time between two looks at the clock of a program in the guest, which looks after every fourth page that it writes, from the request until the branch is durable. Where the clock of the guest stands still in a pause (it does under emulation), the pause is added. Until ready: without the time in which the layer is written to disk, beside the guest.',
  'quiet gap: the same in a window of the same length without a branch.',
  'fault wait: from a write to a protected page being seen by the pager until the page is released. p50 and p99 are the medians over the branches of each branch’s own, max is the largest.',
  `After every ${ROUNDS_PER_AUDIT}th round a branch of each mode is audited, and not timed: all guest memory is copied inside its pause and compared with what it captured, page by page.`,
  'Percentiles are nearest-rank; the 99th of fewer than a hundred is the largest.',
];

export async function benchBranch(setting: BranchSetting, run: Run): Promise<BranchReport> {
  await using lab = await Lab.start({ signal: run.signal });
  const host = hostFacts(lab.engine);
  const { memMib, privateMib } = setting;
  run.progress(`branch: a guest of ${memMib} MiB that has written ${privateMib} MiB`);
  const template = await lab.template(installStorm, { memMib });
  const guest = await lab.fork(template);
  await checkRoom(guest, privateMib);
  const ticker = await Ticker.start(guest, { mib: privateMib, storm: setting.storm });
  const source = new Source({ lab, template, guest, ticker, stops: await clockStops(guest, ticker), run });
  // The first branch of a pager finds cold code and files.
  const warm = await source.measure(setting.modes[0] ?? 'live-async');
  run.progress(`branch: one to warm up: pause ${warm.pause_us / 1e3} ms, durable after ${round(warm.durable_ms)} ms`);
  const rows: BranchRow[] = [];
  const audited: AuditTally = { branches: 0, pages: 0, differing_pages: 0 };
  for (let iteration = 0; iteration < setting.iterations; iteration += 1) {
    for (const mode of rotated(setting.modes, iteration)) {
      const cell = { mem_mib: memMib, private_mib: privateMib, storm: setting.storm, mode, iteration };
      const figures = await source.measure(mode);
      rows.push({ ...cell, ...figures, quiet_gap_ms: await source.quietGap(figures.durable_ms) });
    }
    if (iteration % ROUNDS_PER_AUDIT === 0) {
      for (const mode of new Set(setting.modes.map(pagerMode))) await source.audit(mode, audited);
    }
    run.progress(`branch: ${iteration + 1} of ${setting.iterations}, ${setting.modes.join(', ')}`);
  }
  await lab.end(guest);
  const report = { host, method: METHOD, rows, summary: summarizeBranch(rows), audited };
  if (!(await measuresPayload(lab.engine.accelerator))) return report;
  const modes = [...new Set(setting.modes.map(pagerMode))];
  return { ...report, payload: await payloadBranches({ ...setting, modes }, run) };
}

/** Throws if the guest has too little memory, which would otherwise end the program without a reason. */
async function checkRoom(guest: Guest, privateMib: number): Promise<void> {
  const kib = Number(await sh(guest.agent, "awk '/^MemAvailable/ { print $2 }' /proc/meminfo"));
  const roomMib = Math.floor(kib / 1024) - RESERVE_MIB;
  if (privateMib <= roomMib) return;
  throw new BenchError(
    `${privateMib} MiB of private memory do not fit: a guest of ${guest.vm.record.machine.mem_mib} MiB has ${roomMib} MiB to spare.`,
    'Give it more memory with --mem, or less to write with --private.',
  );
}

type Figures = Omit<BranchRow, 'mem_mib' | 'private_mib' | 'storm' | 'mode' | 'iteration'>;

/** The guest that is branched. */
class Source {
  readonly #lab: Lab;
  readonly #template: Point;
  readonly #guest: Guest;
  readonly #ticker: Ticker;
  readonly #stops: boolean;
  readonly #run: Run;

  constructor(parts: { lab: Lab; template: Point; guest: Guest; ticker: Ticker; stops: boolean; run: Run }) {
    this.#lab = parts.lab;
    this.#template = parts.template;
    this.#guest = parts.guest;
    this.#ticker = parts.ticker;
    this.#stops = parts.stops;
    this.#run = parts.run;
  }

  /** Measures one branch, with a floor before and after it. The captured layer is dropped. */
  async measure(mode: Mode): Promise<Omit<Figures, 'quiet_gap_ms'>> {
    const floorBefore = await this.#floor();
    const before = await this.#mark();
    await this.#wait(MARGIN_MS);
    const { done, instants } = await this.#branch(mode);
    await this.#wait(MARGIN_MS);
    const after = await this.#mark();
    await this.#lab.discard(done, this.#template);
    const { resumedMs, durableMs, requestedMs, readyMs } = instants;
    return {
      ...pagerFigures(done.stats),
      round_trip_ms: round((mode === 'live-async' ? resumedMs : durableMs) - requestedMs),
      ready_ms: round(readyMs - requestedMs),
      durable_ms: round(durableMs - requestedMs),
      floor_before_us: floorBefore,
      floor_after_us: await this.#floor(),
      ...guestView(before, after, instants, this.#stops),
    };
  }

  /**
   * Takes one branch that is audited and not timed. A page that differs ends the benchmark, because figures of wrong branches
   * are worth nothing.
   */
  async audit(mode: BranchMode, tally: AuditTally): Promise<void> {
    const request = { sandbox: this.#guest.vm.record.id, mode, resume: true, audit: true };
    const done = await this.#lab.pager.branch(request, { signal: this.#run.signal });
    await this.#lab.discard(done, this.#template);
    if (done.audit === null) throw new Error('an audited branch has no audit');
    tally.branches += 1;
    tally.pages += done.audit.checked_pages;
    tally.differing_pages += done.audit.differing_pages;
  }

  /** The longest gap in an idle window of this length. */
  async quietGap(lengthMs: number): Promise<number> {
    const before = await this.#mark();
    await this.#wait(2 * MARGIN_MS + lengthMs);
    return quietGap(before, await this.#mark(), MARGIN_MS);
  }

  /** Measures a floor, after the same quiet time as a branch. */
  async #floor(): Promise<number> {
    await this.#wait(MARGIN_MS);
    return (await this.#lab.pager.floor(this.#guest.vm.record.id)).pause_us;
  }

  async #mark(): Promise<Mark> {
    this.#run.signal.throwIfAborted();
    return this.#ticker.mark();
  }

  async #wait(ms: number): Promise<void> {
    await delay(ms, undefined, { signal: this.#run.signal });
  }

  async #branch(mode: Mode): Promise<{ done: BranchDone; instants: Instants }> {
    const requestedMs = performance.now();
    let [resumedMs, readyMs] = [0, 0];
    const request = { sandbox: this.#guest.vm.record.id, mode: pagerMode(mode), resume: true, audit: false };
    const done = await this.#lab.pager.branch(request, {
      signal: this.#run.signal,
      onEvent: ({ stage }) => {
        if (stage === 'resumed') resumedMs = performance.now();
        else readyMs = performance.now();
      },
    });
    const durableMs = performance.now();
    return { done, instants: { requestedMs, resumedMs, readyMs, durableMs, pauseMs: done.stats.pause_us / 1e3 } };
  }
}

function pagerMode(mode: Mode): BranchMode {
  return mode === 'live-sync' || mode === 'live-async' ? 'live' : mode;
}

function pagerFigures(stats: BranchStats) {
  return {
    pause_us: stats.pause_us,
    device_state_us: stats.device_state_us,
    arm_us: stats.arm_us,
    scan_us: stats.scan_us,
    settle_us: stats.settle_us,
    settle_rounds: stats.settle_rounds,
    capture_us: stats.capture_us,
    touched_pages: stats.touched_pages,
    private_pages: stats.private_pages,
    captured_pages: stats.captured_pages,
    captured_bytes: stats.captured_bytes,
    faults: stats.faults,
    fault_wait_us_p50: stats.fault_wait_ns_p50 / 1e3,
    fault_wait_us_p99: stats.fault_wait_ns_p99 / 1e3,
    fault_wait_us_max: stats.fault_wait_ns_max / 1e3,
  };
}
