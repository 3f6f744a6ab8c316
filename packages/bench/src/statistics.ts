/** What is told of a sample, in the sample's unit. */
export interface Summary {
  /** How many there were: of few the 99th percentile is the largest. */
  n: number;
  p50: number;
  p99: number;
  max: number;
}

/** The nearest-rank percentile: a value that was really seen. A sample must not be empty. */
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

/** Four significant figures are more than any of these measurements has. */
export function round(value: number): number {
  return Number(value.toPrecision(4));
}

/** Runs `action` and returns what it took, in ms, with its result. */
export async function timed<T>(action: () => Promise<T>): Promise<{ ms: number; value: T }> {
  const start = performance.now();
  const value = await action();
  return { ms: performance.now() - start, value };
}

/** `items` begun with another one each time, so that none always follows the same. */
export function rotated<T>(items: readonly T[], turn: number): T[] {
  const first = items.length === 0 ? 0 : turn % items.length;
  return [...items.slice(first), ...items.slice(0, first)];
}

/** Those of one key together, in the order of the keys' first. */
export function grouped<T>(items: readonly T[], keyOf: (item: T) => string | number): T[][] {
  const groups = new Map<string | number, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    groups.set(key, [...(groups.get(key) ?? []), item]);
  }
  return [...groups.values()];
}

/** The results in order, once all have settled; then the first failure is thrown. Nothing is left under way. */
export async function settled<T>(promises: readonly Promise<T>[]): Promise<T[]> {
  const outcomes = await Promise.allSettled(promises);
  return outcomes.map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  });
}
