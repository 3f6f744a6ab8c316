import { setImmediate as nextRound } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Turns } from '../src/turns.ts';

test('one round of the event loop lets one waiter go on, in the order in which they came', async () => {
  const turns = new Turns();
  const order: string[] = [];
  const work = async (name: string, pieces: number): Promise<void> => {
    for (let piece = 1; piece <= pieces; piece += 1) {
      await turns.next();
      order.push(`${name}${piece}`);
    }
  };
  const all = Promise.all([work('a', 3), work('b', 2), work('c', 1)]);
  const perRound: number[] = [];
  while (order.length < 6) {
    const before = order.length;
    await nextRound();
    perRound.push(order.length - before);
  }
  await all;
  expect(order).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3']);
  expect(Math.max(...perRound)).toBe(1);
});
