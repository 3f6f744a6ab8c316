import { CodedError } from '@forkd/api/constants';
import type * as benchmarks from '@forkd/bench';
import type { Context } from '../../context.ts';
import { formatMs } from '../../output/text.ts';

type Benchmarks = typeof benchmarks;

/** Runs a benchmark. Its progress is on stderr: one line that is rewritten on a terminal, else a line for each step. */
export function measure<T>(context: Context, run: (bench: Benchmarks, how: benchmarks.Run) => Promise<T>): Promise<T> {
  const { out } = context;
  const progress = (text: string): void => {
    if (out.isQuiet) return;
    if (out.streams.stderr.isTTY) out.status(text);
    else out.streams.stderr.write(`${text}\n`);
  };
  return withBenchmarks(async (bench) => {
    if (process.geteuid?.() !== 0) {
      throw new bench.BenchError(
        'Benchmarks start virtual machines as root, and this is another user.',
        'Use sudo -E.',
      );
    }
    await bench.requireBuilt();
    return run(bench, { signal: context.signal, progress });
  }).finally(() => out.keepStatus());
}

/**
 * Loads the benchmarks, only when one is run. They need engines and images, which no other verb needs, and exist only in a
 * checkout.
 */
export async function withBenchmarks<T>(run: (bench: Benchmarks) => Promise<T>): Promise<T> {
  const bench = await loadBenchmarks();
  try {
    return await run(bench);
  } catch (error) {
    if (!(error instanceof bench.BenchError)) throw error;
    throw new CodedError('bench_failed', error.message, { hint: error.hint });
  }
}

async function loadBenchmarks(): Promise<Benchmarks> {
  try {
    return await import('@forkd/bench');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error;
    throw new CodedError(
      'bench_missing',
      'The benchmarks are part of a checkout of forkd, and this is not a built checkout.',
      { hint: '`npm run bench` in a checkout builds what it needs.' },
    );
  }
}

/** Formats `p50 / p99 / max` with their units. */
export function quantiles({ p50, p99, max }: { p50: number; p99: number; max: number }): string {
  return [p50, p99, max].map(formatMs).join(' / ');
}

/** Prints the report as JSON or by `table`. */
export function print<T>(context: Context, report: T, table: (report: T) => void): void {
  if (context.out.isJson) context.out.json(report);
  else table(report);
}
