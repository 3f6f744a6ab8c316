import { writeFile } from 'node:fs/promises';
import type { BranchReport, Mode } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { UsageError } from '../../lib/errors.ts';
import { formatMs } from '../../output/text.ts';
import { choice, integer, list } from '../../parse/parse.ts';
import { measure, print, quantiles } from './measure.ts';

/** The modes of `@forkd/bench`, repeated here because that package is not loaded to parse a command line. */
const MODES = ['live-sync', 'live-async', 'diff', 'full'] as const satisfies readonly Mode[];

interface Options {
  modes?: Mode[];
  iterations: number;
  mem: number;
  private: number;
  storm?: boolean;
  csv?: string;
  chart?: string;
}

export const branch = defineCommand<Options>({
  name: 'branch',
  summary: 'measure the pause of a branch, and what the guest notices',
  description:
    'Branches one guest in several modes by turns. Its floor (stop, save device state, run) is measured before and after each branch.\nlive-sync waits until the branch is on disk, live-async until the source runs again.',
  args: [],
  options: [
    {
      flags: '--modes <list>',
      summary: `some of ${MODES.join(',')} (default: all)`,
      parse: list('--modes', choice('--modes', MODES)),
    },
    {
      flags: '--iterations <n>',
      summary: 'branches of each mode',
      parse: integer('--iterations', 1, 10_000),
      default: 10,
    },
    { flags: '--mem <mib>', summary: 'memory of the guest', parse: integer('--mem', 128, 1_048_576), default: 256 },
    {
      flags: '--private <mib>',
      summary: 'memory that the guest has written',
      parse: integer('--private', 1, 1_048_576),
      default: 64,
    },
    { flags: '--storm', summary: 'the guest keeps rewriting that memory as fast as it can' },
    { flags: '--csv <file>', summary: 'write every branch to this file', completes: 'file' },
    { flags: '--chart <file>', summary: 'draw the pauses and their floor, as .svg', parse: svgFile, completes: 'file' },
  ],
  examples: [
    { line: 'forkd bench branch --storm', summary: 'all modes, 64 MiB rewritten' },
    { line: 'forkd bench branch --modes live-async,diff --mem 1536 --private 512 --storm', summary: 'a larger guest' },
    { line: 'forkd bench branch --iterations 50 --json --csv branches.csv --chart pause.svg', summary: 'the figures' },
  ],
  run,
});

function svgFile(text: string): string {
  if (text.endsWith('.svg')) return text;
  throw new UsageError(`--chart: "${text}" does not end with .svg.`, 'Charts are drawn as SVG only.');
}

async function run({ context, options }: Call<Options>): Promise<void> {
  if (options.private >= options.mem) {
    throw new UsageError(`--private: ${options.private} MiB do not fit in a guest of ${options.mem} MiB.`);
  }
  await measure(context, async (bench, how) => {
    const { modes = MODES, iterations, mem: memMib, private: privateMib, storm = false } = options;
    const report = await bench.benchBranch({ modes, iterations, memMib, privateMib, storm }, how);
    if (options.csv !== undefined) await writeFile(options.csv, bench.toCsv(report.rows));
    if (options.chart !== undefined) await writeFile(options.chart, await bench.branchChart(report));
    print(context, report, () => printTable(context, report));
  });
}

function printTable({ out }: Context, { summary, payload }: BranchReport): void {
  printEntries(out, summary);
  if (payload === undefined) return;
  out.line(`\n${payload.guest}:`);
  printEntries(out, payload.summary);
}

type Entry = BranchReport['summary'][number] | NonNullable<BranchReport['payload']>['summary'][number];

function printEntries(out: Context['out'], entries: readonly Entry[]): void {
  out.wholeTable(
    ['MODE', 'N', 'PAUSE p50 / p99 / max', 'FLOOR p50', 'RATIO', 'READY', 'DURABLE', 'GUEST GAP', 'QUIET GAP'],
    entries.map((entry) => [
      entry.mode,
      String(entry.pause_ms.n),
      quantiles(entry.pause_ms),
      formatMs(entry.floor_ms.p50),
      entry.ratio_p50.toFixed(2),
      formatMs(entry.ready_ms.p50),
      formatMs(entry.durable_ms.p50),
      formatMs(entry.guest_gap_ms.p50),
      formatMs(entry.quiet_gap_ms.p50),
    ]),
  );
}
