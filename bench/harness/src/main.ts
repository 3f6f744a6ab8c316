/**
 * Runs all benchmarks with sensible sizes. Writes the figures of each as JSON and CSV, charts, and the page about them:
 * `bench/RESULTS.md`. With `--quick`, makes a smoke run of a few minutes, and leaves the figures of the checkout alone.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { summarizeBranch } from './branch-summary.ts';
import { benchBranch, type BranchReport } from './branch.ts';
import { benchChain } from './chain.ts';
import { chainChart, forkChart, gapChart, pauseChart, stagesChart } from './charts/index.ts';
import { toCsv } from './csv.ts';
import { benchDisk } from './disk.ts';
import { benchExec } from './exec.ts';
import { benchFork } from './fork.ts';
import { benchLoad } from './load.ts';
import { fullPlan, type Plan, quickPlan } from './plan.ts';
import { type Documents, renderResults } from './results.ts';
import type { Run } from './run.ts';
import { watchStolen } from './stolen.ts';
import { benchWp } from './wp.ts';

async function benchAll(plan: Plan, run: Run): Promise<Documents> {
  const wp = await benchWp(plan.wp, run);
  const branches: BranchReport[] = [];
  for (const setting of plan.branch) branches.push(await benchBranch(setting, run));
  const fork = await benchFork(plan.fork, run);
  const chain = await benchChain(plan.chain, run);
  const disk = await benchDisk(plan.disk, run);
  const exec = await benchExec(plan.exec, run);
  const load = await benchLoad(plan.load, run);
  return { branch: merged(branches), fork, chain, disk, exec, load, wp };
}

/** Merges the reports of all guests. */
function merged(reports: readonly BranchReport[]): BranchReport {
  const [first] = reports;
  if (!first) throw new RangeError('a plan has branches');
  const rows = reports.flatMap((report) => report.rows);
  const sum = (of: (tally: BranchReport['audited']) => number) =>
    reports.reduce((total, { audited }) => total + of(audited), 0);
  const audited = {
    branches: sum(({ branches }) => branches),
    pages: sum(({ pages }) => pages),
    differing_pages: sum(({ differing_pages }) => differing_pages),
  };
  return { ...first, rows, summary: summarizeBranch(rows), audited };
}

async function write(out: string, documents: Documents, stolen: number): Promise<void> {
  const { branch, fork, chain, disk, exec, load } = documents;
  const tables = {
    branch: toCsv(branch.rows),
    fork: toCsv(fork.rows),
    chain: toCsv(chain.rows),
    disk: toCsv(disk.rows),
    exec: toCsv(exec.rows),
    load: toCsv(load.rows),
  };
  const charts = {
    pause: pauseChart(branch.summary),
    stages: stagesChart(branch.summary),
    gap: gapChart(branch.summary),
    fork: forkChart(fork.summary),
    chain: chainChart(chain.summary),
  };
  const files = [
    ...Object.entries(documents).map(([name, document]) => [`results/${name}.json`, JSON.stringify(document, null, 2)]),
    ...Object.entries(tables).map(([name, text]) => [`results/${name}.csv`, text]),
    ...Object.entries(charts).map(([name, svg]) => [`charts/${name}.svg`, svg]),
    ['RESULTS.md', renderResults(documents, stolen)],
  ];
  for (const folder of ['results', 'charts']) await mkdir(join(out, folder), { recursive: true });
  for (const [name = '', text = ''] of files) await writeFile(join(out, name), `${text.trimEnd()}\n`);
}

async function main(args: readonly string[]): Promise<number> {
  if (args.some((arg) => arg !== '--quick')) {
    process.stderr.write(`error: "${args.join(' ')}" is not known\nusage: npm run bench [-- --quick]\n`);
    return 2;
  }
  const plan = args.includes('--quick') ? quickPlan : fullPlan;
  const abort = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => abort.abort(new Error(`ended by ${signal}`)));
  const startMs = performance.now();
  const progress = (text: string): void => {
    process.stderr.write(`${((performance.now() - startMs) / 1e3).toFixed(1).padStart(7)} s  ${text}\n`);
  };
  try {
    const stolen = await watchStolen();
    const documents = await benchAll(plan, { signal: abort.signal, progress });
    await write(plan.out, documents, await stolen());
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    process.stderr.write(`${(abort.signal.reason as Error).message}; nothing is written\n`);
    return 130;
  }
  process.stdout.write(`${relative(process.cwd(), join(plan.out, 'RESULTS.md'))}\n`);
  return 0;
}

process.exitCode = await main(process.argv.slice(2));
