import type { SoakReport } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { integer } from '../../lib/parse.ts';
import { measure, print, quantiles } from './measure.ts';

type Options = { clients: number; secs: number; rounds: number; children: number };

export const soak = defineCommand<Options>({
  name: 'soak',
  summary: 'many clients of one controller for a long time: what they wait for, and whether anything is left',
  args: [],
  options: [
    { flags: '--clients <n>', summary: 'clients at once', parse: integer('--clients', 1, 1000), default: 200 },
    { flags: '--secs <n>', summary: 'how long they go on', parse: integer('--secs', 1, 86_400), default: 600 },
    { flags: '--rounds <n>', summary: 'then, rounds of forks', parse: integer('--rounds', 1, 1000), default: 20 },
    { flags: '--children <n>', summary: 'forks in a round', parse: integer('--children', 1, 1000), default: 100 },
  ],
  examples: [{ line: 'forkd bench soak', summary: '200 clients for ten minutes, then 20 times 100 forks' }],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const report = await measure(context, (bench, how) => bench.benchSoak(options, how));
  print(context, report, () => printTables(context, report));
}

function printTables({ out }: Context, report: SoakReport): void {
  out.table(
    ['REQUEST', 'N', 'p50 / p99 / max', 'REFUSED'],
    report.summary.map((entry) => [entry.kind, String(entry.ms.n), quantiles(entry.ms), String(entry.refused)]),
  );
  const held = { before: report.before, after: report.after };
  const rounds = { 'before the rounds': report.before_rounds, 'after the rounds': report.after_rounds };
  out.table(
    ['HELD', 'CONTROLLER FDS', 'MiB', 'PAGER FDS', 'MiB', 'PROCESSES', 'SANDBOXES'],
    Object.entries({ ...held, ...rounds }).map(([when, row]) => [
      when,
      String(row.controller_fds),
      String(row.controller_rss_mib),
      String(row.pager_fds),
      String(row.pager_rss_mib),
      String(row.processes),
      String(row.sandboxes),
    ]),
  );
  out.note(`${report.requests_per_s} requests a second, ${report.errors.length} errors`);
  for (const error of report.errors) out.warn(error);
}
