import { grouped, percentile, round, type Summary, summarize } from './statistics.ts';

/** One fork. */
export interface ChainRow {
  depth: number;
  iteration: number;
  running_ms: number;
  layers: number;
  extents: number;
}

export interface ChainEntry {
  depth: number;
  running_ms: Summary;
  layers: number;
  extents: number;
  /** Running p50 over that of the least depth. */
  ratio: number;
}

/** An entry for each depth, the least first. */
export function summarizeChain(rows: readonly ChainRow[]): ChainEntry[] {
  const groups = grouped(
    rows.toSorted((a, b) => a.depth - b.depth),
    (row) => row.depth,
  );
  const p50 = (group: readonly ChainRow[]): number =>
    percentile(
      group.map((row) => row.running_ms),
      0.5,
    );
  return groups.map((group) => ({
    depth: group[0]?.depth ?? 0,
    running_ms: summarize(group.map((row) => row.running_ms)),
    layers: group[0]?.layers ?? 0,
    extents: group[0]?.extents ?? 0,
    ratio: round(p50(group) / p50(groups[0] ?? group)),
  }));
}
