import type { ForkReport } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { formatBytes, formatMs } from '../../output/text.ts';
import { integer, list } from '../../parse/parse.ts';
import { measure, print, quantiles } from './measure.ts';

interface Options {
  count?: number[];
  iterations: number;
}

export const fork = defineCommand<Options>({
  name: 'fork',
  summary: 'measure forks until they run and answer, and the memory of a child',
  description: 'By turns with a restore by QEMU alone, with forks from a pool of waiting VMMs, and after a cold boot.',
  args: [],
  options: [
    {
      flags: '-n, --count <list>',
      summary: 'children at the same time, one number after the other (default: 1,10,100)',
      parse: list('-n', integer('-n', 1, 1000)),
    },
    {
      flags: '--iterations <n>',
      summary: 'children of each number that are measured, at least one batch',
      parse: integer('--iterations', 1, 10_000),
      default: 30,
    },
  ],
  examples: [
    { line: 'forkd bench fork', summary: '1, 10 and 100 at once' },
    { line: 'forkd bench fork -n 1 --iterations 100 --json', summary: 'a hundred, one after the other' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const { count: counts = [1, 10, 100], iterations } = options;
  const report = await measure(context, (bench, how) => bench.benchFork({ counts, iterations }, how));
  print(context, report, () => printTable(context, report));
}

function printTable({ out }: Context, { summary, payload }: ForkReport): void {
  out.wholeTable(
    [
      'AT ONCE',
      'RUNNING p50 / p99 / max',
      'QEMU ALONE',
      'RATIO',
      'FROM POOL',
      'RATIO',
      'FIRST ANSWER',
      'COLD BOOT',
      'PRIVATE',
    ],
    summary.map((entry) => [
      String(entry.n),
      quantiles(entry.running_ms),
      formatMs(entry.floor_ms),
      entry.ratio.toFixed(2),
      formatMs(entry.pool_running_ms.p50),
      entry.pool_ratio.toFixed(2),
      formatMs(entry.first_exec_ms.p50),
      formatMs(entry.cold_boot_ms),
      formatBytes(entry.private_kib_per_child * 1024),
    ]),
  );
  if (payload === undefined) return;
  out.line(`\n${payload.guest}:`);
  out.wholeTable(
    ['AT ONCE', 'RUNNING p50 / p99 / max', 'QEMU ALONE', 'RATIO', 'FROM POOL', 'RATIO'],
    payload.summary.map((entry) => [
      String(entry.n),
      quantiles(entry.running_ms),
      formatMs(entry.floor_ms),
      entry.ratio.toFixed(2),
      formatMs(entry.pool_running_ms.p50),
      entry.pool_ratio.toFixed(2),
    ]),
  );
}
