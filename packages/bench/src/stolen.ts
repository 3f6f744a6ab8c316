import { readFile } from 'node:fs/promises';

/** What the processors have done since the host started, in ticks. */
interface Ticks {
  all: number;
  /** They had work, and the hypervisor ran somebody else. */
  stolen: number;
}

/**
 * Begins to watch how much of the processors' time the hypervisor gives to others, where the host is itself a virtual machine.
 * The answer is that in percent, from now until it is asked for.
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

/** The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq and steal; what follows is in user already. */
export function parseTicks(text: string): Ticks {
  const ticks = (/^cpu +(.+)$/m.exec(text)?.[1] ?? '').split(' ').slice(0, 8).map(Number);
  return { all: ticks.reduce((sum, each) => sum + each, 0), stolen: ticks[7] ?? 0 };
}
