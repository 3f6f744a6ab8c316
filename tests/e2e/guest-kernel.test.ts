/**
 * How the kernel of a guest uses its machine. A sandbox with nothing to do leaves the processor alone: its kernel stops its tick,
 * by its own count of timer interrupts over a time that its own clock measures. A kernel that believes its timer to stop with the
 * processor ticks for ever. One that believes an emulated processor to have the flaws of hardware takes ten times as long for a
 * system call.
 */

import { sh } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

/** The tick rate of the distribution's kernel while it is busy. */
const TICKS_PER_S = 250;
const SECS = 3;

describe('the guest kernel of a child', () => {
  test('takes far fewer timer interrupts than ticks while idle', async ({ lab, template }) => {
    const { agent } = await lab.fork(template);
    const count = "awk '/LOC:/ { print $2 }' /proc/interrupts";
    const counts = await sh(agent, `${count}; sleep ${SECS}; ${count}`);
    const [before, after] = counts.split('\n').map(Number);
    expect((after ?? Number.NaN) - (before ?? Number.NaN)).toBeLessThan((TICKS_PER_S * SECS) / 4);
  });

  test('shares page tables with its programs on an emulated processor', async ({ lab, template, skip }) => {
    const { accelerator } = template.machine;
    skip(accelerator !== 'tcg', 'guests run under KVM here: the processor is real');
    const { agent } = await lab.fork(template);
    expect(await sh(agent, 'cat /sys/devices/system/cpu/vulnerabilities/meltdown')).toBe('Vulnerable');
  });
});
