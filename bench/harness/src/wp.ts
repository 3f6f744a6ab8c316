import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { promisify } from 'node:util';
import { REPO } from '@forkd/testing';
import { BenchError } from './errors.ts';
import type { Run } from './run.ts';

/** The part of `forkd-wp-bench --json` that is used here. `bench/wp-bench/src/report.rs` explains each figure. */
export interface WpReport {
  region_mib: number;
  writers: number;
  pages_by_copy: number;
  pages_by_fault: number;
  violations: number;
  lost_writes: number;
  fault_wait_us: Quantiles;
  bare_round_trip_us: Quantiles;
  fault_wait_ratio: { p50: number; p99: number };
  copy_mib_per_s: number;
  quiet_copy_mib_per_s: number;
  readv_mib_per_s: number;
}

interface Quantiles {
  p50: number;
  p99: number;
  max: number;
}

/** The program that measures write-protection alone, without a guest. */
export function wpProgram(env: NodeJS.ProcessEnv): string {
  const program = resolve(REPO, env['FORKD_WP_BENCH_BIN'] || 'target/release/forkd-wp-bench');
  if (existsSync(program)) return program;
  throw new BenchError(
    `${program} has not been built.`,
    'Build it with `cargo build --release -p forkd-wp-bench`, or name another with FORKD_WP_BENCH_BIN.',
  );
}

/** Fails even if only a page was captured wrongly. */
export async function benchWp(setting: { regionMib: number; writers: number }, run: Run): Promise<WpReport> {
  run.progress(`wp-bench: ${setting.regionMib} MiB, ${setting.writers} writers`);
  const args = ['--region-mib', String(setting.regionMib), '--writers', String(setting.writers), '--json'];
  const { stdout } = await promisify(execFile)(wpProgram(process.env), args, { signal: run.signal });
  return JSON.parse(stdout) as WpReport;
}
