/**
 * What a guest's kernel makes of its machine. A sandbox with nothing to do leaves the processor alone: its kernel stops its tick,
 * by its own count of timer interrupts over a time that its own clock measures. A kernel that believes its timer to stop with the
 * processor ticks for ever. One that believes an emulated processor to have the flaws of hardware takes ten times as long for a
 * system call.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Lab, type Point, sh } from '@forkd/lab';

/** Of the distribution's kernel, while it is busy. */
const TICKS_PER_S = 250;
const SECS = 3;

describe('the kernel of a child', () => {
  let host: Lab;
  let template: Point;

  beforeAll(async () => {
    host = await Lab.start();
    template = await host.template();
  });

  afterAll(async () => {
    await host?.[Symbol.asyncDispose]();
  });

  it('has far fewer timer interrupts than ticks while it idles', async () => {
    const { agent } = await host.fork(template);
    const count = "awk '/LOC:/ { print $2 }' /proc/interrupts";
    const counts = await sh(agent, `${count}; sleep ${SECS}; ${count}`);
    const [before, after] = counts.split('\n').map(Number);
    expect((after ?? Number.NaN) - (before ?? Number.NaN)).toBeLessThan((TICKS_PER_S * SECS) / 4);
  });

  it('has no page tables of their own for its programs, where it is emulated', async ({ skip }) => {
    const { accelerator } = template.machine;
    skip(accelerator !== 'tcg', 'guests run under KVM here: the processor is real');
    const { agent } = await host.fork(template);
    expect(await sh(agent, 'cat /sys/devices/system/cpu/vulnerabilities/meltdown')).toBe('Vulnerable');
  });
});
