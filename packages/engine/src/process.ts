import { readFile } from 'node:fs/promises';

/** A process that can be told from a later one with the same pid. */
export interface ProcessId {
  pid: number;
  /** Start time in clock ticks since boot. */
  startTicks: number;
}

/** The start of process `pid` in clock ticks since boot; `null` when there is none, or when it is a zombie. */
export async function readStartTicks(pid: number): Promise<number | null> {
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return null;
  }
  // The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [state, startTicks] = [fields[0], Number(fields[19])];
  return state === 'Z' || state === 'X' || !Number.isSafeInteger(startTicks) ? null : startTicks;
}

/** Whether that very process still runs. */
export async function isRunning({ pid, startTicks }: ProcessId): Promise<boolean> {
  return (await readStartTicks(pid)) === startTicks;
}

/** Sends SIGKILL, unless that very process has ended. */
export async function killProcess(id: ProcessId): Promise<void> {
  if (!(await isRunning(id))) return;
  try {
    process.kill(id.pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
