import type { ExecReport } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { integer } from '../../parse/parse.ts';
import { measure, print, quantiles } from './measure.ts';

interface Options {
  iterations: number;
}

export const exec = defineCommand<Options>({
  name: 'exec',
  summary: 'measure one command in a sandbox, with and without the controller',
  args: [],
  options: [
    {
      flags: '--iterations <n>',
      summary: 'commands each way',
      parse: integer('--iterations', 1, 100_000),
      default: 100,
    },
  ],
  examples: [{ line: 'forkd bench exec', summary: '`true`, a hundred times each way' }],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const report = await measure(context, (bench, how) => bench.benchExec({ iterations: options.iterations }, how));
  print(context, report, () => printTable(context, report));
}

function printTable({ out }: Context, { summary }: ExecReport): void {
  out.wholeTable(
    ['THROUGH', 'N', 'p50 / p99 / max'],
    summary.flatMap((entry) => [
      ['REST', String(entry.rest_ms.n), quantiles(entry.rest_ms)],
      ['the agent’s channel', String(entry.agent_ms.n), quantiles(entry.agent_ms)],
    ]),
  );
}
