import { execFile } from 'node:child_process';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { promisify } from 'node:util';

/** The fields of `/proc/PID/status`. */
export async function statusOf(pid: number): Promise<Record<string, string>> {
  return fieldsOf(await readFile(`/proc/${pid}/status`, 'utf8'));
}

/** The fields of a text like `/proc/PID/status`. */
export function fieldsOf(text: string): Record<string, string> {
  const fields = text.split('\n').map((line) => line.split(':\t'));
  return Object.fromEntries(fields.map(([name = '', value = '']) => [name, value.trim()]));
}

/** Kills a process, or the group of -`pid`, if it is still there. A process may end between being found and being killed. */
export function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** The user that a process runs as. */
export async function userOf(pid: number): Promise<number> {
  return Number((await statusOf(pid))['Uid']?.split('\t')[0]);
}

/** The soft limits of a process, by their names in `/proc/PID/limits`. */
export async function limitsOf(pid: number): Promise<Record<string, string>> {
  const lines = (await readFile(`/proc/${pid}/limits`, 'utf8')).split('\n').slice(1);
  return Object.fromEntries(lines.map((line) => [line.slice(0, 26).trim(), line.slice(26, 47).trim()]));
}

/** The namespace of a process, by its kind. */
export function namespaceOf(pid: number, kind: string): Promise<string> {
  return readlink(`/proc/${pid}/ns/${kind}`);
}

/** The open files of a process. */
export async function openFilesOf(pid: number): Promise<string[]> {
  const fds = await readdir(`/proc/${pid}/fd`);
  return Promise.all(fds.map((fd) => readlink(`/proc/${pid}/fd/${fd}`)));
}

/** Output of a Perl program with the user, root and namespaces of a VMM: the reach of an attacker who controls the VMM. */
export async function insideOf(pid: number, program: string, ...args: string[]): Promise<string> {
  const user = String(await userOf(pid));
  const namespaces = ['--target', String(pid), '--mount', '--net', '--ipc', '--uts', '--root', '--wd'];
  return run('nsenter', [
    ...namespaces,
    '--setuid',
    user,
    '--setgid',
    user,
    '--',
    '/usr/bin/perl',
    '-e',
    program,
    ...args,
  ]);
}

/** Runs a Perl program on the host as another user, and returns its output. */
export async function asUser(user: number, program: string, ...args: string[]): Promise<string> {
  const as = ['--reuid', String(user), '--regid', String(user), '--clear-groups'];
  return run('setpriv', [...as, '/usr/bin/perl', '-e', program, ...args]);
}

async function run(program: string, args: readonly string[]): Promise<string> {
  return (await promisify(execFile)(program, args)).stdout.trim();
}
