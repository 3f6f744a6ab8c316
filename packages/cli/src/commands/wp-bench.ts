import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { defineCommand, type Call } from '../command.ts';
import { exitCodes } from '../lib/errors.ts';
import { integer } from '../lib/parse.ts';
import { withBenchmarks } from './bench/measure.ts';

type Options = { regionMib: number; writers?: number };

export const wpBench = defineCommand<Options>({
  name: 'wp-bench',
  summary: 'measure the write-protection of a live branch by itself, without a guest',
  description:
    'Captures memory while threads write to it, and holds every page against a copy of the instant. It runs forkd-wp-bench of a checkout that has been built, or what FORKD_WP_BENCH_BIN names.',
  args: [],
  options: [
    {
      flags: '--region-mib <n>',
      summary: 'memory that is captured',
      parse: integer('--region-mib', 1, 1_048_576),
      required: true,
    },
    { flags: '--writers <k>', summary: 'threads that write to it', parse: integer('--writers', 1, 1024) },
  ],
  examples: [
    { line: 'forkd wp-bench --region-mib 512', summary: 'half a GiB' },
    { line: 'forkd wp-bench --region-mib 512 --writers 4 --json', summary: 'its figures' },
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
