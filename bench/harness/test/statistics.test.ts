/**
 * Proves the arithmetic under every figure: nearest-rank percentiles against their definition, turns that give every mode
 * every place, groups, and that nothing is left under way when one of many fails.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { grouped, percentile, rotated, settled, summarize } from '../src/statistics.ts';

describe('percentiles', () => {
  test('are the nearest rank: the least value with that share of the sample at or below it', () => {
    const share = fc.double({ min: 0.001, max: 1, noNaN: true });
    fc.assert(
      fc.property(fc.array(fc.integer(), { minLength: 1 }), share, (sample, wanted) => {
        const value = percentile(sample, wanted);
        const shareUpTo = (limit: number): number => sample.filter((one) => one <= limit).length / sample.length;
        expect(sample).toContain(value);
        expect(shareUpTo(value)).toBeGreaterThanOrEqual(wanted);
        for (const less of sample.filter((one) => one < value)) expect(shareUpTo(less)).toBeLessThan(wanted);
      }),
    );
  });

  test('of a small sample are its largest value, with the sample size', () => {
    expect(summarize([3, 1, 2])).toEqual({ n: 3, p50: 2, p99: 3, max: 3 });
    expect(summarize(Array.from({ length: 200 }, (_, index) => index + 1))).toEqual({
      n: 200,
      p50: 100,
      p99: 198,
      max: 200,
    });
    expect(summarize([1.23456])).toEqual({ n: 1, p50: 1.235, p99: 1.235, max: 1.235 });
  });

  test('of an empty sample are missing', () => {
    expect(() => percentile([], 0.5)).toThrow('empty');
    expect(() => summarize([])).toThrow('empty');
  });
});

describe('turns', () => {
  test('put each entry once in each position', () => {
    const modes = ['a', 'b', 'c'];
    const turns = [0, 1, 2].map((turn) => rotated(modes, turn));
    for (const place of [0, 1, 2]) expect(new Set(turns.map((turn) => turn[place]))).toEqual(new Set(modes));
    expect(rotated(modes, 3)).toEqual(modes);
    expect(rotated([], 5)).toEqual([]);
  });

  test('group entries by key, in order', () => {
    expect(grouped([1, 2, 3, 4, 5], (value) => value % 2)).toEqual([
      [1, 3, 5],
      [2, 4],
    ]);
  });
});

describe('concurrent tasks', () => {
  test('are all awaited, even after the first has failed', async () => {
    let isDone = false;
    const late = new Promise<void>((resolve) => setImmediate(resolve)).then(() => (isDone = true));
    await expect(settled([Promise.reject(new Error('the first')), late])).rejects.toThrow('the first');
    expect(isDone).toBe(true);
    await expect(settled([Promise.resolve(1), Promise.resolve(2)])).resolves.toEqual([1, 2]);
  });
});
