import { spawn } from 'node:child_process';
import { mkdir, open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { readStartTicks } from '../process.ts';
import { checkSocketPath, endOfChild, spawned } from '../supervise.ts';
import type { VmExit } from '../types.ts';
import type { Jailer } from './jailer.ts';
import type { VmRoot } from './vm-root.ts';

/** Names of the files in a VM's directory, where its process is started: what a snapshot remembers of them is relative. */
export const FILES = {
  api: 'api.sock',
  /** Socket of the vsock device, to which the agent's client connects. */
  agent: 'agent.sock',
  /** Where the pager lets the agent's client through to that, if it branches the VM live. */
  channel: 'channel.sock',
  /** Where the pager gives a VM its memory page by page: there for as long as the VM needs that. */
  pages: 'pages.sock',
  /** A link to the root file system. */
  root: 'root.img',
  /** The guest's serial output, which is the standard output of the process. */
  console: 'console.log',
  log: 'vmm.log',
} as const;

/** An id of Firecracker's is of letters, digits and dashes. */
const ID_CHARS_MAX = 64;

/** A program and what it is started with. */
export interface Command {
  program: string;
  args: readonly string[];
}

/** A process that we have started. */
export interface Started {
  pid: number;
  startTicks: number;
  exited: Promise<VmExit>;
}

/** Starts a Firecracker that waits for its VM, jailed in a place or not. Throws `engine_missing` or `path_too_long`. */
export async function startProcess(
  program: string,
  id: string,
  dir: string,
  jail?: { jailer: Jailer; vmRoot: VmRoot },
): Promise<Started> {
  // The longest of them.
  checkSocketPath(join(dir, FILES.channel));
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const files: FileHandle[] = [];
  try {
    for (const name of [FILES.console, FILES.log]) files.push(await open(join(dir, name), 'a', 0o600));
    const args = ['--api-sock', FILES.api, '--log-path', FILES.log, '--level', 'Warning'];
    const command = jail?.jailer.command(id, args, jail.vmRoot) ?? { program, args: ['--id', idOf(id), ...args] };
    const child = spawn(command.program, command.args, {
      cwd: dir,
      // The VMM gets a session of its own, because signals of a terminal are for the command that was typed, not for VMs.
      detached: true,
      env: { PATH: process.env['PATH'] },
      stdio: ['ignore', ...files.map((file) => file.fd)],
    });
    child.unref();
    const exited = endOfChild(child, () => join(dir, FILES.log));
    await spawned(
      child,
      command.program,
      'Install it from https://github.com/firecracker-microvm/firecracker/releases',
    );
    const pid = child.pid ?? 0;
    return { pid, startTicks: (await readStartTicks(pid)) ?? 0, exited };
  } finally {
    for (const file of files) await file.close();
  }
}

/** Converts an id to the form that Firecracker accepts. */
export function idOf(id: string): string {
  return id.replaceAll(/[^A-Za-z0-9-]/g, '-').slice(0, ID_CHARS_MAX);
}
