import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { defineCommand, type Call } from '../command.ts';
import { exitCodes } from '../lib/errors.ts';
import { integer } from '../parse/parse.ts';
import { withBenchmarks } from './bench/measure.ts';

interface Options {
  regionMib: number;
  writers?: number;
}

export const wpBench = defineCommand<Options>({
  name: 'wp-bench',
  summary: 'measure the write-protection of live branches, without a guest',
  description:
    'Captures memory while threads write to it, and compares every page with a copy. Runs forkd-wp-bench of a built checkout, or the program that FORKD_WP_BENCH_BIN names.',
  args: [],
  options: [
    {
      flags: '--region-mib <n>',
      summary: 'memory to capture',
      parse: integer('--region-mib', 1, 1_048_576),
      required: true,
    },
    { flags: '--writers <k>', summary: 'threads that write to the memory', parse: integer('--writers', 1, 1024) },
  ],
  examples: [
    { line: 'forkd wp-bench --region-mib 512', summary: 'capture half a GiB' },
    { line: 'forkd wp-bench --region-mib 512 --writers 4 --json', summary: 'the figures, for a program' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<number> {
  const program = await withBenchmarks(async (bench) => bench.wpProgram(context.env));
  const args = ['--region-mib', String(options.regionMib)];
  if (options.writers !== undefined) args.push('--writers', String(options.writers));
  if (context.out.isJson) args.push('--json');
  const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'], signal: context.signal });
  const [code] = (await once(child, 'exit')) as [number | null];
  return code ?? exitCodes.failure;
}
