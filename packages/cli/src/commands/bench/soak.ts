import type { SoakNeighbours, SoakReport } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { integer } from '../../parse/parse.ts';
import { measure, print, quantiles } from './measure.ts';

interface Options {
  clients: number;
  secs: number;
  rounds: number;
  children: number;
  hostile: number;
}

export const soak = defineCommand<Options>({
  name: 'soak',
  summary: 'run many clients for a long time: how long they wait, and whether anything is left',
  args: [],
  options: [
    { flags: '--clients <n>', summary: 'clients at once', parse: integer('--clients', 1, 1000), default: 200 },
    {
      flags: '--secs <n>',
      summary: 'duration of each of three runs',
      parse: integer('--secs', 1, 86_400),
      default: 600,
    },
    { flags: '--rounds <n>', summary: 'rounds of forks after that', parse: integer('--rounds', 1, 1000), default: 20 },
    { flags: '--children <n>', summary: 'forks per round', parse: integer('--children', 1, 1000), default: 100 },
    {
      flags: '--hostile <n>',
      summary: 'hostile clients beside them',
      parse: integer('--hostile', 1, 1000),
      default: 20,
    },
  ],
  examples: [{ line: 'forkd bench soak', summary: '200 clients for three times ten minutes, then 20 times 100 forks' }],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const report = await measure(context, (bench, how) => bench.benchSoak(options, how));
  print(context, report, () => printTables(context, report));
}

function printTables({ out }: Context, report: SoakReport): void {
  out.wholeTable(
    ['REQUEST', 'N', 'p50 / p99 / max', 'REFUSED'],
    report.summary.map((entry) => [entry.kind, String(entry.ms.n), quantiles(entry.ms), String(entry.refused)]),
  );
  for (const beside of report.neighbours) {
    const { looked, later_than_250_ms: late } = beside.loop;
    out.wholeTable(
      [heading(beside), 'p50 / p99 / max'],
      [
        ['/healthz of another caller', quantiles(beside.health_ms)],
        ['exec of another caller', quantiles(beside.exec_ms)],
        ...beside.summary.map((entry) => [entry.kind, quantiles(entry.ms)]),
        ['event loop later than 250 ms', `${late} of ${looked}`],
      ],
    );
  }
  const held = { before: report.before, after: report.after };
  const rounds = { 'before the rounds': report.before_rounds, 'after the rounds': report.after_rounds };
  out.wholeTable(
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
  out.note(`${report.requests_per_s} requests per second, ${report.errors.length} errors`);
  for (const error of report.errors) out.warn(error);
}

function heading({ hostile, pause_secs: pause }: SoakNeighbours): string {
  const pace = pause === 0 ? 'WITHOUT PAUSE' : `WITH PAUSES OF ${pause} s`;
  return hostile ? `${pace}, BESIDE HOSTILE CLIENTS` : pace;
}
