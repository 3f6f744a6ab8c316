import { readdir, readFile, readlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type ProcessId, isRunning, killProcess, readStartTicks } from '@forkd/engine';
import { sleep } from '../deadline.ts';

/** A VMM process, and the directory of its sockets and logs. */
export interface Stray extends ProcessId {
  dir: string;
}

const END_WAIT_MS = 5_000;
const END_POLL_MS = 10;

/**
 * The VMMs of these directories. A VMM has its own root and no working directory here, but its standard output is a file in
 * its directory from its first instant, even after a move. The environment of QEMU names its shim settings, and the command
 * line of Firecracker its API socket. A program that only reads the file is therefore not taken for a VMM.
 */
export async function findVmms(dirs: ReadonlySet<string>): Promise<Stray[]> {
  const found: Stray[] = [];
  if (dirs.size === 0) return found;
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isSafeInteger(pid)) continue;
    const dir = dirname(await readlink(`/proc/${pid}/fd/1`).catch(() => ''));
    if (!dirs.has(dir)) continue;
    const [environment, words] = await Promise.all([stringsOf(pid, 'environ'), stringsOf(pid, 'cmdline')]);
    const isQemu = environment.some((entry) => entry.startsWith('FORKD_SHIM_SANDBOX='));
    if (!isQemu && !words.includes('--api-sock')) continue;
    const startTicks = await readStartTicks(pid);
    if (startTicks !== null) found.push({ pid, startTicks, dir });
  }
  return found;
}

async function stringsOf(pid: number, file: 'environ' | 'cmdline'): Promise<string[]> {
  return (await readFile(`/proc/${pid}/${file}`, 'latin1').catch(() => '')).split('\0');
}

/** Kills a process and waits for its end. Returns whether it has ended. */
export async function endProcess(id: ProcessId): Promise<boolean> {
  await killProcess(id);
  for (let waitedMs = 0; await isRunning(id); waitedMs += END_POLL_MS) {
    if (waitedMs >= END_WAIT_MS) return false;
    await sleep(END_POLL_MS);
  }
  return true;
}
