/** The usual figures of a sample, in the sample's unit. */
export interface Summary {
  p50: number;
  p99: number;
  max: number;
}

/** Nearest-rank percentiles. A sample must not be empty. */
export function summarize(sample: readonly number[]): Summary {
  const sorted = sample.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99), max: at(1) };
}

/** Runs `action` and returns what it took, in ms, with its result. */
export async function timed<T>(action: () => Promise<T>): Promise<{ ms: number; value: T }> {
  const start = performance.now();
  const value = await action();
  return { ms: performance.now() - start, value };
}
