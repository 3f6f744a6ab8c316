/** Proves that a deadline fires even when the only thing that refers to it is the signal that was composed of it. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { anySignal } from '../src/signals.ts';

test('a composed deadline fires after garbage collections, with a listener and without one', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const never = new AbortController();
  const polled = anySignal(never.signal, AbortSignal.timeout(100), undefined);
  let heard = false;
  anySignal(never.signal, AbortSignal.timeout(100)).addEventListener('abort', () => (heard = true));
  const nested = anySignal(anySignal(never.signal, AbortSignal.timeout(100)), never.signal);
  await expect
    .poll(() => {
      collect();
      return [polled.aborted, heard, nested.aborted];
    })
    .toEqual([true, true, true]);
});
