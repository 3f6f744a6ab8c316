import { grouped, percentile, round, type Summary, summarize } from './statistics.ts';

/** A fork. */
export interface ChainRow {
  depth: number;
  iteration: number;
  running_ms: number;
  layers: number;
  extents: number;
  /** Number of mappings of the child's memory. */
  mappings: number;
}

export interface ChainEntry {
  depth: number;
  running_ms: Summary;
  /** The first fork. */
  first_ms: number;
  layers: number;
  extents: number;
  /** Mappings of the first child's memory, and the median over all children. */
  mappings_first: number;
  mappings: number;
  /** Running p50 divided by that of the smallest depth. */
  ratio: number;
}

/** An entry for each depth, smallest first. */
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
    first_ms: group[0]?.running_ms ?? 0,
    layers: group[0]?.layers ?? 0,
    extents: group[0]?.extents ?? 0,
    mappings_first: group[0]?.mappings ?? 0,
    mappings: percentile(
      group.map((row) => row.mappings),
      0.5,
    ),
    ratio: round(p50(group) / p50(groups[0] ?? group)),
  }));
}
