import type { DiskReport } from '@forkd/bench';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { integer } from '../../parse/parse.ts';
import { measure, print } from './measure.ts';

interface Options {
  dirtyMib: number;
  iterations: number;
  spanMib: number;
  loadMs: number;
  depth: number;
}

export const disk = defineCommand<Options>({
  name: 'disk',
  summary: 'measure disks: branches after much was written, and reading and writing',
  args: [],
  options: [
    {
      flags: '--dirty-mib <n>',
      summary: 'what is written before the branches that are compared with those after 1 MiB',
      parse: integer('--dirty-mib', 2, 3072),
      default: 1024,
    },
    { flags: '--iterations <n>', summary: 'rounds', parse: integer('--iterations', 1, 1000), default: 10 },
    {
      flags: '--span-mib <n>',
      summary: 'how much of each device is read and written',
      parse: integer('--span-mib', 8, 65_536),
      default: 512,
    },
    {
      flags: '--load-ms <n>',
      summary: 'how long a device is read or written',
      parse: integer('--load-ms', 10, 60_000),
      default: 1500,
    },
    { flags: '--depth <n>', summary: 'layers of the deep stack', parse: integer('--depth', 2, 200), default: 20 },
  ],
  examples: [
    { line: 'forkd bench disk', summary: 'branches after 1 MiB and 1 GiB, and a stack of 20 layers' },
    { line: 'forkd bench disk --iterations 3 --json', summary: 'in short, for a program' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const report = await measure(context, (bench, how) => bench.benchDisk(options, how));
  print(context, report, () => printTable(context, report));
}

function printTable({ out }: Context, { summary }: DiskReport): void {
  out.wholeTable(
    ['MEASURE', 'OF', 'N', 'p50', 'LEAST', 'MOST', 'UNIT'],
    summary.map(({ measure: what, of, unit, values }) => [
      what,
      of,
      ...[values.n, values.p50, values.least, values.most].map(String),
      unit,
    ]),
  );
}
