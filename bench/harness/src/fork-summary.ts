import type { GuestMemory } from './memory.ts';
import { grouped, percentile, round, type Summary, summarize } from './statistics.ts';

/** A child, or its baseline. Memory is present if it was measured. */
export interface ForkRow extends Partial<GuestMemory> {
  kind: 'cold-boot' | 'bare' | 'running' | 'first-exec' | 'pool';
  /** Number of children that are started at the same time. */
  n: number;
  batch: number;
  child: number;
  /** Time since the batch was requested. */
  ms: number;
}

/** Cost of n children at once. */
export interface ForkEntry {
  n: number;
  running_ms: Summary;
  first_exec_ms: Summary;
  /** Time until the last child had answered: the median over the batches. */
  all_ms: number;
  /** QEMU alone, with as many VMs at the same time; the median. */
  floor_ms: number;
  cold_boot_ms: number;
  /** Running p50 over the floor. */
  ratio: number;
  pool_running_ms: Summary;
  pool_ratio: number;
  /** Memory of an idle child, as medians. */
  private_kib_per_child: number;
  shared_kib: number;
  proportional_kib: number;
  bare_private_kib: number;
  private_beyond_bare_kib: number;
  private_after_exec_kib: number;
  cold_boot_private_kib: number;
}

export function summarizeFork(rows: readonly ForkRow[]): ForkEntry[] {
  const cold = rows.filter((row) => row.kind === 'cold-boot');
  return grouped(
    rows.filter((row) => row.kind !== 'cold-boot'),
    (row) => row.n,
  ).map((group) => entryOf(group, cold));
}

function entryOf(rows: readonly ForkRow[], cold: readonly ForkRow[]): ForkEntry {
  const of = (kind: ForkRow['kind']): ForkRow[] => rows.filter((row) => row.kind === kind);
  const times = (kind: ForkRow['kind']): Summary => summarize(of(kind).map((row) => row.ms));
  const running = times('running');
  const floor = times('bare').p50;
  const pool = times('pool');
  const idle = memoryOf(of('running'));
  const bare = memoryOf(of('bare'));
  const batches = grouped(of('first-exec'), (row) => row.batch);
  return {
    n: rows[0]?.n ?? 0,
    running_ms: running,
    first_exec_ms: times('first-exec'),
    all_ms: percentile(
      batches.map((batch) => Math.max(...batch.map((row) => row.ms))),
      0.5,
    ),
    floor_ms: floor,
    cold_boot_ms: percentile(
      cold.map((row) => row.ms),
      0.5,
    ),
    ratio: round(running.p50 / floor),
    pool_running_ms: pool,
    pool_ratio: round(pool.p50 / floor),
    private_kib_per_child: idle.private_kib,
    shared_kib: idle.shared_kib,
    proportional_kib: idle.proportional_kib,
    bare_private_kib: bare.private_kib,
    private_beyond_bare_kib: idle.private_kib - bare.private_kib,
    private_after_exec_kib: memoryOf(of('first-exec')).private_kib,
    cold_boot_private_kib: middle(cold, 'private_kib'),
  };
}

function memoryOf(rows: readonly ForkRow[]): GuestMemory {
  return {
    private_kib: middle(rows, 'private_kib'),
    shared_kib: middle(rows, 'shared_kib'),
    proportional_kib: middle(rows, 'proportional_kib'),
  };
}

/** The median over the rows whose memory was measured. */
function middle(rows: readonly ForkRow[], field: keyof GuestMemory): number {
  const known = rows.map((row) => row[field]).filter((kib) => kib !== undefined);
  return percentile(known, 0.5);
}
