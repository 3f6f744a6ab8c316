/** Summary of a sample, in the unit of the sample. */
export interface Summary {
  /** Size of the sample. The 99th percentile of a small sample is its largest value. */
  n: number;
  p50: number;
  p99: number;
  max: number;
}

/** The nearest-rank percentile, which is a measured value. A sample must not be empty. */
export function percentile(sample: readonly number[], share: number): number {
  if (sample.length === 0) throw new RangeError('an empty sample has no percentile');
  const sorted = sample.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

export function summarize(sample: readonly number[]): Summary {
  return {
    n: sample.length,
    p50: round(percentile(sample, 0.5)),
    p99: round(percentile(sample, 0.99)),
    max: round(percentile(sample, 1)),
  };
}

/** Rounds to four significant figures, more than any of these measurements has. */
export function round(value: number): number {
  return Number(value.toPrecision(4));
}

/** Runs `action` and returns what it took, in ms, with its result. */
export async function timed<T>(action: () => Promise<T>): Promise<{ ms: number; value: T }> {
  const start = performance.now();
  const value = await action();
  return { ms: performance.now() - start, value };
}

/** The items in order, but beginning with another item each turn, so that none always follows the same one. */
export function rotated<T>(items: readonly T[], turn: number): T[] {
  const first = items.length === 0 ? 0 : turn % items.length;
  return [...items.slice(first), ...items.slice(0, first)];
}

/** Groups items with the same key, in the order in which the keys first appear. */
export function grouped<T>(items: readonly T[], keyOf: (item: T) => string | number): T[][] {
  const groups = new Map<string | number, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    groups.set(key, [...(groups.get(key) ?? []), item]);
  }
  return [...groups.values()];
}

/** The results in order, once all promises have settled. Then throws the first failure; no work is left under way. */
export async function settled<T>(promises: readonly Promise<T>[]): Promise<T[]> {
  const outcomes = await Promise.allSettled(promises);
  return outcomes.map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  });
}
