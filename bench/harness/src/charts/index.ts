import type { BranchEntry } from '../branch-summary.ts';
import type { ChainEntry } from '../chain-summary.ts';
import type { ForkEntry } from '../fork-summary.ts';
import { grouped, type Summary } from '../statistics.ts';
import { formatMib, formatRange, formatTime, guestName } from '../units.ts';
import { type Dot, drawDots } from './draw.ts';

const HOW = 'Dot: p50, bar: to p99, line: to the maximum.';

/** Draws the pause of every mode beside its floor, by guest. */
export function pauseChart(entries: readonly BranchEntry[]): string {
  const cells = cellsOf(entries);
  const modes = [...new Set(entries.map((entry) => entry.mode))];
  const inMode = (mode: string, cell: readonly BranchEntry[]) => cell.find((entry) => entry.mode === mode);
  return drawDots({
    title: pauseFinding(entries),
    subtitle: `${HOW} The floor is stop, device state and run over the monitor, and nothing else.`,
    groups: cells.map(nameOf),
    series: [
      { name: 'floor', dots: cells.map((cell) => dotOf(cell[0]?.floor_ms)) },
      ...modes.map((mode) => ({ name: mode, dots: cells.map((cell) => dotOf(inMode(mode, cell)?.pause_ms)) })),
    ],
  });
}

function pauseFinding(entries: readonly BranchEntry[]): string {
  const lives = live(entries);
  const others = entries.filter((entry) => !lives.includes(entry));
  if (lives.length === 0) return `A branch that copies pauses the guest for ${rangeOf(others, pauseOf)}`;
  const sizes = lives.map(({ mem_mib: mib }) => mib);
  const [least, most] = [formatMib(Math.min(...sizes)), formatMib(Math.max(...sizes))];
  const guest = least === most ? least : `${least} to ${most}`;
  const longest = formatTime(Math.max(...others.map((entry) => entry.pause_ms.p50)));
  const copies = others.length === 0 ? '' : `, a copying one up to ${longest}`;
  return `A live branch pauses a guest of ${guest} for ${rangeOf(lives, pauseOf)}${copies}`;
}

/** Draws the stage that the guest waits for, and those during which it runs. */
export function stagesChart(entries: readonly BranchEntry[]): string {
  const lives = live(entries);
  return drawDots({
    title: `A live branch pauses the guest for ${rangeOf(lives, pauseOf)}, and can be forked from after ${rangeOf(lives, ({ ready_ms: ready }) => ready)}`,
    subtitle: `${HOW} Ready and durable are counted from the request, while the guest runs.`,
    ...byGuest(lives, [
      ['pause', pauseOf],
      ['ready: can be forked from', (entry) => entry.ready_ms],
      ['durable: on disk', (entry) => entry.durable_ms],
    ]),
  });
}

/** Draws the longest time that the guest was held up, beside the pause and beside a quiet guest. */
export function gapChart(entries: readonly BranchEntry[]): string {
  const lives = live(entries);
  return drawDots({
    title: `During a live branch a guest sees a gap of ${rangeOf(lives, ({ guest_gap_ms: gap }) => gap)}, of which the pause is ${rangeOf(lives, pauseOf)}`,
    subtitle: `${HOW} Quiet: in a window as long without a branch, on the same host.`,
    ...byGuest(lives, [
      ['quiet gap', (entry) => entry.quiet_gap_ms],
      ['pause', pauseOf],
      ['gap until ready', (entry) => entry.guest_gap_ready_ms],
      ['gap until durable', (entry) => entry.guest_gap_ms],
    ]),
  });
}

export function forkChart(entries: readonly ForkEntry[]): string {
  const series = (name: string, of: (entry: ForkEntry) => Dot | null) => ({ name, dots: entries.map(of) });
  return drawDots({
    title: forkFinding(entries),
    subtitle: `${HOW} Since all were asked for.`,
    groups: entries.map(({ n }) => childrenOf(n)),
    series: [
      series('QEMU alone, running', (entry) => ({ p50: entry.floor_ms })),
      series('running', (entry) => dotOf(entry.running_ms)),
      series('running, from the pool', (entry) => dotOf(entry.pool_running_ms)),
      series('first command answered', (entry) => dotOf(entry.first_exec_ms)),
      series('cold boot of one', (entry) => ({ p50: entry.cold_boot_ms })),
    ],
  });
}

function forkFinding(entries: readonly ForkEntry[]): string {
  const [first, last] = [entries[0], entries.at(-1)];
  if (first === undefined || last === undefined) throw new RangeError('a chart has entries');
  const times = ({ running_ms: running, pool_running_ms: pool }: ForkEntry) =>
    [formatTime(running.p50), formatTime(pool.p50)] as const;
  const [alone, pooled] = times(first);
  const many = first === last ? '' : `; ${last.n}: after ${times(last).join(' and ')}`;
  return `${childrenOf(first.n)}: running after ${alone}, from the pool after ${pooled}${many}`;
}

export function chainChart(entries: readonly ChainEntry[]): string {
  const deepest = entries.at(-1);
  if (deepest === undefined) throw new RangeError('a chart has entries');
  return drawDots({
    title: `A fork from ${deepest.depth} branches deep takes ${Number(deepest.ratio.toPrecision(3))} times as long as one from a template`,
    subtitle: `${HOW} Until the child runs, by the depth of its snapshot.`,
    groups: entries.map(({ depth }) => (depth === 0 ? 'template' : `${depth} deep`)),
    series: [{ name: 'running', dots: entries.map((entry) => dotOf(entry.running_ms)) }],
  });
}

/** The groups and series of a chart that has these figures for each kind of guest. */
function byGuest(entries: readonly BranchEntry[], figures: readonly [string, (entry: BranchEntry) => Summary][]) {
  const cells = cellsOf(entries);
  const series = figures.map(([name, of]) => ({ name, dots: cells.map(([entry]) => dotOf(entry && of(entry))) }));
  return { groups: cells.map(nameOf), series };
}

/** The entries of each kind of guest. */
function cellsOf(entries: readonly BranchEntry[]): BranchEntry[][] {
  return grouped(entries, ({ mem_mib, private_mib, storm }) => [mem_mib, private_mib, storm].join(' '));
}

function live(entries: readonly BranchEntry[]): BranchEntry[] {
  return entries.filter(({ mode }) => mode === 'live-sync' || mode === 'live-async');
}

function pauseOf(entry: BranchEntry): Summary {
  return entry.pause_ms;
}

/** The medians of all kinds of guests, from the least to the largest. */
function rangeOf(entries: readonly BranchEntry[], of: (entry: BranchEntry) => Summary): string {
  return formatRange(entries.map((entry) => of(entry).p50));
}

function nameOf([entry]: readonly BranchEntry[]): string {
  return entry ? guestName(entry) : '';
}

function childrenOf(n: number): string {
  return n === 1 ? '1 child' : `${n} children`;
}

function dotOf(summary: Summary | undefined): Dot | null {
  return summary ?? null;
}
