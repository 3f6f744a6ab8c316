import type { Mode } from './branch.ts';
import { grouped, percentile, round, type Summary, summarize } from './statistics.ts';

const PAGE_BYTES = 4096;

/** A branch. Times are counted from the request unless stated otherwise. */
export interface BranchRow {
  mem_mib: number;
  private_mib: number;
  storm: boolean;
  mode: Mode;
  iteration: number;
  pause_us: number;
  device_state_us: number;
  arm_us: number;
  scan_us: number;
  settle_us: number;
  settle_rounds: number;
  /** Time from running again until the last page was copied. */
  capture_us: number;
  touched_pages: number;
  private_pages: number;
  captured_pages: number;
  captured_bytes: number;
  faults: number;
  fault_wait_us_p50: number;
  fault_wait_us_p99: number;
  fault_wait_us_max: number;
  round_trip_ms: number;
  ready_ms: number;
  durable_ms: number;
  floor_before_us: number;
  floor_after_us: number;
  guest_gap_ms: number;
  guest_gap_ready_ms: number;
  quiet_gap_ms: number;
  writes_per_s_before: number | null;
  writes_per_s_during: number | null;
  writes_per_s_after: number | null;
}

/** All branches of one mode in one kind of guest. */
export interface BranchEntry {
  mem_mib: number;
  private_mib: number;
  storm: boolean;
  mode: Mode;
  pause_ms: Summary;
  floor_ms: Summary;
  /** Pause p50 over floor p50. */
  ratio_p50: number;
  /** Pause p99 over floor p50. */
  ratio_p99: number;
  round_trip_ms: Summary;
  ready_ms: Summary;
  durable_ms: Summary;
  guest_gap_ms: Summary;
  /** Gap until the branch is ready, which is before the layer is written to disk. */
  guest_gap_ready_ms: Summary;
  quiet_gap_ms: Summary;
  /** Medians over the branches. */
  faults: number;
  touched_pages: number;
  captured_mib: number;
  /** p50 and p99: medians of the values of each branch; max: the largest value. */
  fault_wait_us: { p50: number; p99: number; max: number };
  /** Ready p50 over pause p50. */
  ready_over_pause: number;
  /** Private pages copied while the guest ran; `null` for modes that copy inside the pause. */
  copy_mib_per_s: number | null;
  /** `null` if a capture was too short to measure. */
  writes_per_s_before: number | null;
  writes_per_s_during: number | null;
  writes_per_s_after: number | null;
}

/** An entry for each mode of each kind of guest, in the order of their first rows. */
export function summarizeBranch(rows: readonly BranchRow[]): BranchEntry[] {
  return grouped(rows, (row) => [row.mem_mib, row.private_mib, row.storm, row.mode].join(' ')).map(entryOf);
}

function entryOf(rows: readonly BranchRow[]): BranchEntry {
  const [first] = rows;
  if (!first) throw new RangeError('a group has at least one row');
  const all = (of: (row: BranchRow) => number): Summary => summarize(rows.map(of));
  const middle = (of: (row: BranchRow) => number): number => all(of).p50;
  const pause = all((row) => row.pause_us / 1e3);
  const floor = summarize(rows.flatMap((row) => [row.floor_before_us / 1e3, row.floor_after_us / 1e3]));
  const ready = all((row) => row.ready_ms);
  const copies = rows.filter((row) => row.capture_us > 0);
  return {
    mem_mib: first.mem_mib,
    private_mib: first.private_mib,
    storm: first.storm,
    mode: first.mode,
    pause_ms: pause,
    floor_ms: floor,
    ratio_p50: round(pause.p50 / floor.p50),
    ratio_p99: round(pause.p99 / floor.p50),
    round_trip_ms: all((row) => row.round_trip_ms),
    ready_ms: ready,
    durable_ms: all((row) => row.durable_ms),
    guest_gap_ms: all((row) => row.guest_gap_ms),
    guest_gap_ready_ms: all((row) => row.guest_gap_ready_ms),
    quiet_gap_ms: all((row) => row.quiet_gap_ms),
    faults: middle((row) => row.faults),
    touched_pages: middle((row) => row.touched_pages),
    captured_mib: middle((row) => row.captured_bytes / 2 ** 20),
    fault_wait_us: {
      p50: middle((row) => row.fault_wait_us_p50),
      p99: middle((row) => row.fault_wait_us_p99),
      max: all((row) => row.fault_wait_us_max).max,
    },
    ready_over_pause: round(ready.p50 / pause.p50),
    copy_mib_per_s: median(copies.map((row) => (row.private_pages * PAGE_BYTES) / 2 ** 20 / (row.capture_us / 1e6))),
    writes_per_s_before: median(rows.map((row) => row.writes_per_s_before)),
    writes_per_s_during: median(rows.map((row) => row.writes_per_s_during)),
    writes_per_s_after: median(rows.map((row) => row.writes_per_s_after)),
  };
}

function median(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : round(percentile(known, 0.5));
}
