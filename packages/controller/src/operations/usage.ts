import { readFile } from 'node:fs/promises';

/** The counts that the kernel keeps of a process since its start. */
export interface ProcessUsage {
  cpuSecs: number;
  rssBytes: number;
  minorFaults: number;
  majorFaults: number;
}

/** `/proc/PID/stat` counts time in ticks, of which every supported Linux has this many per second. */
const TICKS_PER_SEC = 100;
const PAGE_BYTES = 4096;

/** Counts of a process. All are zero if it has ended. */
export async function readUsage(pid: number): Promise<ProcessUsage> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // The third field follows the name of the program, which may itself hold spaces and parentheses.
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const field = (number: number) => fields[number - 3] || 0;
  return {
    minorFaults: field(10),
    majorFaults: field(12),
    cpuSecs: (field(14) + field(15)) / TICKS_PER_SEC,
    rssBytes: field(24) * PAGE_BYTES,
  };
}
