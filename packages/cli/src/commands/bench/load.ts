import type { LoadReport } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { integer } from '../../parse/parse.ts';
import { measure, print, quantiles } from './measure.ts';

interface Options {
  iterations: number;
}

export const load = defineCommand<Options>({
  name: 'load',
  summary: 'measure the pause of a branch while the controller answers 500 requests per second',
  args: [],
  options: [
    {
      flags: '--iterations <n>',
      summary: 'branches with requests, and as many without',
      parse: integer('--iterations', 1, 10_000),
      default: 40,
    },
  ],
  examples: [{ line: 'forkd bench load', summary: 'forty with requests and forty without, by turns' }],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const report = await measure(context, (bench, how) => bench.benchLoad({ iterations: options.iterations }, how));
  print(context, report, () => printTable(context, report));
}

function printTable({ out }: Context, { summary }: LoadReport): void {
  out.wholeTable(
    ['REQUESTS A SECOND', 'ERRORS', 'N', 'PAUSE p50 / p99 / max'],
    summary.flatMap((entry) => [
      ['0', '0', String(entry.quiet_pause_ms.n), quantiles(entry.quiet_pause_ms)],
      [
        String(entry.requests_per_s),
        String(entry.errors),
        String(entry.loaded_pause_ms.n),
        quantiles(entry.loaded_pause_ms),
      ],
    ]),
  );
}
