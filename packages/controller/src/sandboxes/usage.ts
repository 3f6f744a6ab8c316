import { readFile } from 'node:fs/promises';

/** What the kernel has counted for a process since its start. */
export interface ProcessUsage {
  cpuSecs: number;
  rssBytes: number;
  minorFaults: number;
  majorFaults: number;
}

/** `/proc/PID/stat` counts time in these, on every Linux that this runs on. */
const ticksPerSec = 100;
const pageBytes = 4096;

/** All zeros for a process that has ended. */
export async function readUsage(pid: number): Promise<ProcessUsage> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // Behind the program's name, which may itself hold spaces and parentheses, the third field comes first.
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const field = (number: number) => fields[number - 3] || 0;
  return {
    minorFaults: field(10),
    majorFaults: field(12),
    cpuSecs: (field(14) + field(15)) / ticksPerSec,
    rssBytes: field(24) * pageBytes,
  };
}
