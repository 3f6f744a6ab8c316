import type { BranchEntry } from '../branch-summary.ts';
import type { ChainEntry } from '../chain-summary.ts';
import type { ForkEntry } from '../fork-summary.ts';
import { grouped, type Summary } from '../statistics.ts';
import { guestName } from '../units.ts';
import { type Bar, drawBars, drawLines } from './draw.ts';

/** The pause of every mode beside its floor, by guest. */
export function pauseChart(entries: readonly BranchEntry[]): string {
  const cells = cellsOf(entries);
  const modes = [...new Set(entries.map((entry) => entry.mode))];
  const inMode = (mode: string, cell: readonly BranchEntry[]) => cell.find((entry) => entry.mode === mode);
  return drawBars({
    title: 'Pause of a branch',
    subtitle: 'bar: p50, line: to p99. The floor is stop + device state + run and nothing else',
    unit: 'ms',
    groups: cells.map(nameOf),
    series: [
      { name: 'floor', bars: cells.map((cell) => barOf(cell[0]?.floor_ms)) },
      ...modes.map((mode) => ({ name: mode, bars: cells.map((cell) => barOf(inMode(mode, cell)?.pause_ms)) })),
    ],
  });
}

/** Shows the stages that the guest waits for, and those during which it runs. */
export function stagesChart(entries: readonly BranchEntry[]): string {
  const cells = cellsOf(live(entries));
  const series = (name: string, of: (entry: BranchEntry) => Summary) => ({
    name,
    bars: cells.map((cell) => (cell[0] ? barOf(of(cell[0])) : null)),
  });
  return drawBars({
    title: 'Stages of a live branch',
    subtitle:
      'bar: p50, line: to p99. The guest is held up for the pause; ready and durable are counted from the request, while it runs',
    unit: 'ms',
    groups: cells.map(nameOf),
    series: [
      series('pause', (entry) => entry.pause_ms),
      series('ready: can be forked from', (entry) => entry.ready_ms),
      series('durable: on disk', (entry) => entry.durable_ms),
    ],
  });
}

/** The longest time that the guest was held up, beside the pause and beside a quiet guest. */
export function gapChart(entries: readonly BranchEntry[]): string {
  const cells = cellsOf(live(entries));
  const series = (name: string, of: (entry: BranchEntry) => Summary) => ({
    name,
    bars: cells.map((cell) => (cell[0] ? barOf(of(cell[0])) : null)),
  });
  return drawBars({
    title: 'The longest gap that a guest sees during a live branch',
    subtitle: 'bar: p50, line: to p99. Quiet: in a window as long without a branch, on the same host',
    unit: 'ms',
    groups: cells.map(nameOf),
    series: [
      series('quiet gap', (entry) => entry.quiet_gap_ms),
      series('pause', (entry) => entry.pause_ms),
      series('gap until ready', (entry) => entry.guest_gap_ready_ms),
      series('gap until durable', (entry) => entry.guest_gap_ms),
    ],
  });
}

export function forkChart(entries: readonly ForkEntry[]): string {
  const series = (name: string, of: (entry: ForkEntry) => Bar | null) => ({ name, bars: entries.map(of) });
  return drawBars({
    title: 'Forks, by how many are asked for at once',
    subtitle: 'bar: p50, line: to p99, since all were asked for',
    unit: 'ms',
    groups: entries.map(({ n }) => (n === 1 ? '1 child' : `${n} children`)),
    series: [
      series('QEMU alone, running', (entry) => ({ value: entry.floor_ms })),
      series('running', (entry) => barOf(entry.running_ms)),
      series('running, from the pool', (entry) => barOf(entry.pool_running_ms)),
      series('first command answered', (entry) => barOf(entry.first_exec_ms)),
      series('cold boot', (entry) => ({ value: entry.cold_boot_ms })),
    ],
  });
}

export function chainChart(entries: readonly ChainEntry[]): string {
  return drawLines({
    title: 'Fork from a chain of snapshots',
    subtitle: 'until the child runs, by how many branches deep its snapshot is',
    xName: 'depth',
    unit: 'ms',
    x: entries.map(({ depth }) => depth),
    series: [
      { name: 'p50', values: entries.map((entry) => entry.running_ms.p50) },
      { name: 'p99', values: entries.map((entry) => entry.running_ms.p99) },
    ],
  });
}

/** The entries of each kind of guest. */
function cellsOf(entries: readonly BranchEntry[]): BranchEntry[][] {
  return grouped(entries, ({ mem_mib, private_mib, storm }) => [mem_mib, private_mib, storm].join(' '));
}

function live(entries: readonly BranchEntry[]): BranchEntry[] {
  return entries.filter(({ mode }) => mode === 'live-sync' || mode === 'live-async');
}

/** Name of a guest, on two lines. */
function nameOf([entry]: readonly BranchEntry[]): string {
  return entry ? guestName(entry).replace(', ', '\n') : '';
}

function barOf(summary: Summary | undefined): Bar | null {
  return summary ? { value: summary.p50, upTo: summary.p99 } : null;
}
