import type { BranchEntry } from './branch-summary.ts';
import type { ChainEntry } from './chain-summary.ts';
import { type DiskEntry, diskLoads, p50Of } from './disk-summary.ts';
import type { ExecEntry } from './exec.ts';
import type { ForkEntry } from './fork-summary.ts';
import type { LoadEntry } from './load.ts';
import { round } from './statistics.ts';
import { guestName } from './units.ts';
import type { WpReport } from './wp.ts';

/** A target, and the measured value. */
export interface Judgement {
  what: string;
  measured: number;
  atMost?: number;
  atLeast?: number;
}

export function isMet({ measured, atMost = Infinity, atLeast = -Infinity }: Judgement): boolean {
  return measured <= atMost && measured >= atLeast;
}

const FULL_MEM_MIB = 1536;
const DIFF_PRIVATE_MIB = 512;
const READY_PRIVATE_MIB = 64;

export function judgeBranch(entries: readonly BranchEntry[]): Judgement[] {
  const live = entries.filter(({ mode }) => mode === 'live-sync' || mode === 'live-async');
  const perCell = live.flatMap((entry) => {
    const name = `${guestName(entry)}, ${entry.mode}`;
    return [
      { what: `${name}: pause p50 / floor p50`, measured: entry.ratio_p50, atMost: 1.3 },
      { what: `${name}: pause p99 / floor p50`, measured: entry.ratio_p99, atMost: 3 },
      {
        what: `${name}: (guest gap p50 − pause p50) / pause p50`,
        measured: round((entry.guest_gap_ms.p50 - entry.pause_ms.p50) / entry.pause_ms.p50),
        atMost: 1,
      },
    ];
  });
  const ready = live
    .filter((entry) => entry.private_mib === READY_PRIVATE_MIB && entry.storm)
    .map((entry) => ({
      what: `${guestName(entry)}, ${entry.mode}: ready p50 / pause p50`,
      measured: entry.ready_over_pause,
      atMost: 40,
    }));
  return [
    ...perCell,
    ...overLive(entries, 'full', 200, (entry) => entry.mem_mib === FULL_MEM_MIB),
    ...overLive(entries, 'diff', 15, (entry) => entry.private_mib === DIFF_PRIVATE_MIB),
    ...ready,
  ];
}

/** Pauses of a mode as multiples of those of live branches of the same guest. */
function overLive(
  entries: readonly BranchEntry[],
  mode: 'full' | 'diff',
  atLeast: number,
  counts: (entry: BranchEntry) => boolean,
): Judgement[] {
  return entries
    .filter((entry) => entry.mode === mode && counts(entry))
    .flatMap((entry) => {
      const live = entries.find((other) => other.mode === 'live-async' && guestName(other) === guestName(entry));
      if (!live) return [];
      const measured = round(entry.pause_ms.p50 / live.pause_ms.p50);
      return [{ what: `${guestName(entry)}: ${mode} pause p50 / live-async pause p50`, measured, atLeast }];
    });
}

export function judgeFork(entries: readonly ForkEntry[]): Judgement[] {
  return entries.flatMap((entry) => [
    { what: `${entry.n} at once: running p50 / QEMU alone p50`, measured: entry.ratio, atMost: 1.2 },
    {
      what: `${entry.n} at once: running from the pool p50 / QEMU alone p50`,
      measured: entry.pool_ratio,
      atMost: 0.08,
    },
    {
      what: `${entry.n} at once: private guest memory of an idle child beyond QEMU alone, MiB`,
      measured: round(entry.private_beyond_bare_kib / 1024),
      atMost: 0.2,
    },
  ]);
}

export function judgeChain(entries: readonly ChainEntry[]): Judgement[] {
  const [least, deepest] = [entries[0], entries.at(-1)];
  if (!least || !deepest) return [];
  const what = `depth ${deepest.depth} / depth ${least.depth}: running p50`;
  return [{ what, measured: deepest.ratio, atMost: 1.1 }];
}

export function judgeDisk(entries: readonly DiskEntry[]): Judgement[] {
  const p50 = (measure: DiskEntry['measure'], of: string): number => p50Of(entries, measure, of);
  const [little, much = little] = [
    ...new Set(entries.filter((entry) => entry.measure === 'pause').map(({ of }) => of)),
  ];
  if (little === undefined || much === undefined) return [];
  const branches = [
    {
      what: `pause p50 with ${much} / with ${little}`,
      measured: round(p50('pause', much) / p50('pause', little)),
      atMost: 1.2,
    },
    {
      what: `pause p50 with ${much} / floor p50`,
      measured: round(p50('pause', much) / p50('floor', much)),
      atMost: 1.3,
    },
    {
      what: `ready p50 with ${much} − with ${little}, ms`,
      measured: round(p50('ready', much) - p50('ready', little)),
      atMost: 20,
    },
  ];
  const loads = diskLoads.flatMap((load) => [
    { what: `${load}: disk / raw file`, measured: round(p50(load, 'disk') / p50(load, 'raw file')), atLeast: 0.8 },
    {
      what: `${load}: disk on deep stack / disk`,
      measured: round(p50(load, 'disk on deep stack') / p50(load, 'disk')),
      atLeast: 0.9,
    },
  ]);
  return [...branches, ...loads];
}

export function judgeExec(entries: readonly ExecEntry[]): Judgement[] {
  return entries.map(({ rest_ms: rest, agent_ms: agent }) => {
    return { what: 'through REST p50 / the bare channel p50', measured: round(rest.p50 / agent.p50), atMost: 2 };
  });
}

export function judgeLoad(entries: readonly LoadEntry[]): Judgement[] {
  return entries.flatMap((entry) => [
    { what: 'pause p50 with load / without', measured: entry.ratio_p50, atMost: 1.1 },
    { what: 'pause p99 with load / without', measured: entry.ratio_p99, atMost: 1.5 },
  ]);
}

export function judgeWp(report: WpReport): Judgement[] {
  const ratio = report.fault_wait_ratio;
  const toPlainLoop = (mibPerS: number): number => round(mibPerS / report.readv_mib_per_s);
  const [quiet, written] = [report.quiet_copy_mib_per_s, report.copy_mib_per_s].map(toPlainLoop);
  return [
    { what: 'copy, nobody writing / a plain process_vm_readv loop', measured: quiet ?? 0, atLeast: 0.6 },
    { what: 'copy, a writer beside it / the same plain loop', measured: written ?? 0, atLeast: 0.6 },
    { what: 'wait of a write p50 / bare userfaultfd round trip p50', measured: round(ratio.p50), atMost: 3 },
    { what: 'wait of a write p99 / bare userfaultfd round trip p99', measured: round(ratio.p99), atMost: 3 },
  ];
}
