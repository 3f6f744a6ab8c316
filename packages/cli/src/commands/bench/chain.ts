import type { ChainReport } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { integer, list } from '../../parse/parse.ts';
import { measure, print, quantiles } from './measure.ts';

interface Options {
  depth?: number[];
  iterations: number;
}

export const chain = defineCommand<Options>({
  name: 'chain',
  summary: 'measure forks from snapshots of snapshots of snapshots',
  args: [],
  options: [
    {
      flags: '--depth <list>',
      summary: 'depths to fork from; 0 is the template (default: 0,1,3,10,20)',
      parse: list('--depth', integer('--depth', 0, 200)),
    },
    {
      flags: '--iterations <n>',
      summary: 'forks from each depth',
      parse: integer('--iterations', 1, 10_000),
      default: 20,
    },
  ],
  examples: [
    { line: 'forkd bench chain', summary: 'to depth 20' },
    { line: 'forkd bench chain --depth 0,100 --json', summary: 'a long one' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const { depth: depths = [0, 1, 3, 10, 20], iterations } = options;
  const report = await measure(context, (bench, how) => bench.benchChain({ depths, iterations }, how));
  print(context, report, () => printTable(context, report));
}

function printTable({ out }: Context, { summary }: ChainReport): void {
  out.wholeTable(
    ['DEPTH', 'N', 'RUNNING p50 / p99 / max', 'FIRST', 'RATIO', 'EXTENTS', 'MAPPINGS'],
    summary.map((entry) => [
      String(entry.depth),
      String(entry.running_ms.n),
      quantiles(entry.running_ms),
      entry.first_ms.toFixed(2),
      entry.ratio.toFixed(2),
      String(entry.extents),
      `${entry.mappings_first} / ${entry.mappings}`,
    ]),
  );
}
