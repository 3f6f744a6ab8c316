import type { ChainReport } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { integer, list } from '../../lib/parse.ts';
import { measure, print, quantiles } from './measure.ts';

type Options = { depth?: number[]; iterations: number };

export const chain = defineCommand<Options>({
  name: 'chain',
  summary: 'forks from a snapshot of a snapshot of a snapshot',
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
  out.table(
    ['DEPTH', 'N', 'RUNNING p50 / p99 / max', 'RATIO', 'EXTENTS'],
    summary.map((entry) => [
      String(entry.depth),
      String(entry.running_ms.n),
      quantiles(entry.running_ms),
      entry.ratio.toFixed(2),
      String(entry.extents),
    ]),
  );
}
