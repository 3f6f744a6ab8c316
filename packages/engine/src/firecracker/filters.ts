import { readdir, readFile } from 'node:fs/promises';

/**
 * Whether a process has filters of system calls before its threads: `true`, or what its threads say instead, as the rest of a
 * sentence. A filter of our own, which every program inherits, does not count. Before Firecracker has a VM, the thread that serves
 * its API has one; from then on all have.
 */
export async function filtersOf(pid: number): Promise<true | string> {
  const own = countOf(await readFile('/proc/self/status', 'latin1'));
  const threads = await readdir(`/proc/${pid}/task`);
  const counts: number[] = [];
  for (const thread of threads) {
    // A thread may end meanwhile.
    const status = await readFile(`/proc/${pid}/task/${thread}/status`, 'latin1').catch(() => '');
    counts.push(countOf(status));
  }
  if (Math.max(...counts) > own) return true;
  return `none of its ${counts.length} threads has a filter of its own (Seccomp in /proc/PID/status)`;
}

/** How many filters a thread has. Before Linux 5.9 the kernel tells only whether there are any. */
function countOf(status: string): number {
  const [, count] = /^Seccomp_filters:\s+(\d+)/m.exec(status) ?? [];
  const [, mode] = /^Seccomp:\s+(\d+)/m.exec(status) ?? [];
  return Number(count ?? (mode === '0' ? 0 : mode) ?? 0);
}
