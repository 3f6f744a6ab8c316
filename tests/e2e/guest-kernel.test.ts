/**
 * A sandbox with nothing to do leaves the processor alone: its kernel stops its tick, by its own count of timer interrupts over a
 * time that its own clock measures. A kernel that believes its timer to stop with the processor ticks for ever.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Lab, type Point, sh } from '@forkd/lab';

/** Of the distribution's kernel, while it is busy. */
const TICKS_PER_S = 250;
const SECS = 3;

describe('a child that idles', () => {
  let host: Lab;
  let template: Point;

  beforeAll(async () => {
    host = await Lab.start();
    template = await host.template();
  });

  afterAll(async () => {
    await host?.[Symbol.asyncDispose]();
  });

  it('has far fewer timer interrupts than ticks', async () => {
    const { agent } = await host.fork(template);
    const count = "awk '/LOC:/ { print $2 }' /proc/interrupts";
    const counts = await sh(agent, `${count}; sleep ${SECS}; ${count}`);
    const [before, after] = counts.split('\n').map(Number);
    expect((after ?? Number.NaN) - (before ?? Number.NaN)).toBeLessThan((TICKS_PER_S * SECS) / 4);
  });
});
