import type { TortureReport } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { integer } from '../../parse/parse.ts';
import { measure, print, quantiles } from './measure.ts';

interface Options {
  minutes: number;
  windowSecs: number;
  callers: number;
  payloads: number;
}

export const torture = defineCommand<Options>({
  name: 'torture',
  summary: 'audit branches beside hostile neighbours, a hostile host, and kills',
  description:
    'Changes settings of the host while it runs (memory compaction, huge pages, swap on zram, a memory cgroup), and restores them. Fails when a page differs or an honest request fails.',
  args: [],
  options: [
    { flags: '--minutes <n>', summary: 'how long it runs', parse: integer('--minutes', 1, 10_000), default: 60 },
    {
      flags: '--window-secs <n>',
      summary: 'length of a window',
      parse: integer('--window-secs', 5, 3600),
      default: 30,
    },
    { flags: '--callers <n>', summary: 'honest callers at once', parse: integer('--callers', 1, 100), default: 4 },
    {
      flags: '--payloads <n>',
      summary: 'guests branched without pause',
      parse: integer('--payloads', 1, 16),
      default: 2,
    },
  ],
  examples: [
    { line: 'forkd bench torture', summary: 'an hour of everything at once' },
    { line: 'forkd bench torture --minutes 5 --json', summary: 'a short run, as JSON' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<number> {
  const report = await measure(context, (bench, how) => bench.benchTorture(options, how));
  print(context, report, () => printTables(context, report));
  return isClean(report) ? 0 : 1;
}

function isClean({ branches: { payloads, sandboxes }, failures }: TortureReport): boolean {
  const wrong = [payloads, sandboxes].map((audits) => audits.differing_pages + audits.wrong_by_rule + audits.failed);
  return failures.length === 0 && wrong.every((count) => count === 0);
}

function printTables({ out }: Context, report: TortureReport): void {
  const { payloads, sandboxes } = report.branches;
  out.wholeTable(
    ['BRANCHES OF', 'AUDITED', 'PAGES', 'DIFFERING', 'WRONG BY RULE', 'CHILDREN', 'FAILED', 'CUT OFF'],
    Object.entries({ payloads, sandboxes }).map(([source, audits]) => [
      source,
      String(audits.branches),
      String(audits.pages),
      String(audits.differing_pages),
      String(audits.wrong_by_rule),
      String(audits.children),
      String(audits.failed),
      String(audits.cut_off),
    ]),
  );
  out.wholeTable(
    ['WINDOW', 'HONEST REQUEST', 'N', 'p50 / p99 / max'],
    report.honest.map((entry) => [entry.window, entry.request, String(entry.ms.n), quantiles(entry.ms)]),
  );
  out.wholeTable(
    ['HONEST REQUEST', 'p99 BESIDE HOSTILE / ALONE', 'p99 BESIDE HOSTILE / BESIDE HONEST'],
    Object.entries(report.neighbours_p99_ratio).map(([request, ratio]) => [
      request,
      String(ratio),
      String(report.hostility_p99_ratio[request] ?? '-'),
    ]),
  );
  out.wholeTable(
    ['KILLED', 'TIMES', 'AWAY p50 / p99 / max'],
    Object.entries(report.outages_ms).map(([victim, ms]) => [victim, String(ms.n), quantiles(ms)]),
  );
  out.wholeTable(
    ['NEIGHBOUR', 'DID', 'TIMES'],
    Object.entries(report.neighbours).flatMap(([neighbour, figures]) =>
      Object.entries(figures).map(([name, times]) => [neighbour, name, String(times)]),
    ),
  );
  for (const feature of report.host_features)
    out.note(`host: ${feature.name}: ${feature.works ? `${feature.rounds} rounds` : `unavailable: ${feature.reason}`}`);
  for (const failure of report.failures) out.warn(failure);
}
