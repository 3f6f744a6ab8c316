import { readFile } from 'node:fs/promises';

/** Time that the processors spent since the host started, in ticks. */
interface Ticks {
  all: number;
  /** Time in which the processors had work, and the hypervisor ran another machine. */
  stolen: number;
}

/**
 * Watches how much processor time the hypervisor gives to other machines, if the host is itself a virtual machine. Returns a
 * function whose result is that share in percent, from now until its call.
 */
export async function watchStolen(): Promise<() => Promise<number>> {
  const before = await readTicks();
  return async () => stolenPercent(before, await readTicks());
}

export function stolenPercent(before: Ticks, after: Ticks): number {
  const all = after.all - before.all;
  return all === 0 ? 0 : Number(((100 * (after.stolen - before.stolen)) / all).toFixed(1));
}

async function readTicks(): Promise<Ticks> {
  return parseTicks(await readFile('/proc/stat', 'utf8'));
}

/** The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq and steal. Later fields are part of user. */
export function parseTicks(text: string): Ticks {
  const ticks = (/^cpu +(.+)$/m.exec(text)?.[1] ?? '').split(' ').slice(0, 8).map(Number);
  return { all: ticks.reduce((sum, each) => sum + each, 0), stolen: ticks[7] ?? 0 };
}
