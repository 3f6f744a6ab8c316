import { once } from 'node:events';
import { expect, test } from 'vitest';
import { runBeside } from '../src/beside.ts';

const never = new AbortController().signal;

/** Waits to be told to end, and notes it. */
const waits = (ended: string[], name: string) => async (signal: AbortSignal) => {
  if (!signal.aborted) await once(signal, 'abort');
  ended.push(name);
};

test('the work beside ends with the main work, whose result is returned', async () => {
  const ended: string[] = [];
  expect(await runBeside(never, async () => 7, waits(ended, 'other'))).toBe(7);
  expect(ended).toEqual(['other']);
});

test('a failure of the main work ends the work beside it first', async () => {
  const ended: string[] = [];
  const fails = async () => Promise.reject(new Error('main failed'));
  await expect(runBeside(never, fails, waits(ended, 'other'))).rejects.toThrow('main failed');
  expect(ended).toEqual(['other']);
});

test('a failure of the work beside ends the main work, and is thrown', async () => {
  const ended: string[] = [];
  const fails = async () => Promise.reject(new Error('other failed'));
  await expect(runBeside(never, waits(ended, 'main'), fails)).rejects.toThrow('other failed');
  expect(ended).toEqual(['main']);
});

test('the signal of the run ends both', async () => {
  const ended: string[] = [];
  const stop = new AbortController();
  const running = runBeside(stop.signal, waits(ended, 'main'), waits(ended, 'other'));
  stop.abort();
  await running;
  expect(ended.toSorted()).toEqual(['main', 'other']);
});
