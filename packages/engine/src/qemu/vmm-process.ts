import { type ChildProcess, spawn } from 'node:child_process';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { memBytesOf } from '@forkd/api/constants';
import { REINSTALL_HINT } from '../errors.ts';
import type { Pager } from '../pager/client.ts';
import { readStartTicks } from '../process.ts';
import { endOfChild, spawned } from '../supervise.ts';
import type { Machine, VmExit, WindowKind } from '../types.ts';
import { FILES } from './arguments.ts';
import type { Jail } from './jail.ts';

/** How a VMM's process is started. */
export interface ProcessOptions {
  /** The name under which its shim calls the pager. */
  name: string;
  /** Key that proves its identity to the pager. */
  key: string;
  /** The directory of its sockets and logs, which exists. */
  dir: string;
  program: string;
  args: readonly string[];
  machine: Machine;
  rootImage: string;
  /** Files that it gets a copy of. */
  files?: readonly string[];
  /** The socket to which its network wire goes, if its machine has a network device. */
  network?: { socket: string; key: string } | undefined;
  /** The cgroup that it is put into before it runs. */
  cgroup?: string | undefined;
  shim: string;
  jail: Jail;
  pager: Pager;
  /** The conductor of the pauses of its live branches. */
  window: WindowKind;
  /** Whether it waits for its VM, as the pager has been told with `prepare`. */
  waits?: boolean;
  /** The file that it finds as its fourth descriptor. */
  deviceState?: string;
}

/** A VMM's process that we have started. */
export class VmmProcess {
  readonly pid: number;
  readonly startTicks: number;
  /** Settles with what is known of why it ended. */
  readonly exited: Promise<VmExit>;
  /** Where its files are. It is moved when a VMM that has waited is given a VM. */
  dir: string;

  private constructor(child: ChildProcess, dir: string, exited: Promise<VmExit>, startTicks: number) {
    this.pid = child.pid ?? 0;
    this.dir = dir;
    this.startTicks = startTicks;
    this.exited = exited;
  }

  /** Throws `engine_missing` when the program cannot be started. */
  static async start(options: ProcessOptions): Promise<VmmProcess> {
    const files: FileHandle[] = [];
    try {
      const log = await open(join(options.dir, FILES.log), 'a', 0o600);
      files.push(log);
      const state = options.deviceState === undefined ? undefined : await open(options.deviceState, 'r');
      if (state) files.push(state);
      const { jail, pager, machine } = options;
      const [pagerSocket, memBytes] = [pager.shimSocket, memBytesOf(machine)];
      const args = jail.arguments({ files: [], ...options, pagerSocket, memBytes });
      const child = spawn(jail.launcher, args, {
        // The VMM gets a session of its own, because signals of a terminal are for the command that was typed, not for VMs.
        detached: true,
        env: environment(options),
        stdio: ['ignore', log.fd, log.fd, ...(state ? [state.fd] : [])],
      });
      child.unref();
      // Listened for at once: a process that is killed in its first milliseconds must not end unnoticed.
      let started: VmmProcess | undefined;
      const exited = endOfChild(child, () => join(started?.dir ?? options.dir, FILES.log));
      await spawned(child, jail.launcher, REINSTALL_HINT);
      // A process that has already ended has no start time to read. Its end is reported instead.
      started = new VmmProcess(child, options.dir, exited, (await readStartTicks(child.pid ?? 0)) ?? 0);
      return started;
    } finally {
      for (const file of files) await file.close();
    }
  }
}

/** Environment that the jail passes on. The jail adds where the VMM finds the shim and the pager. */
function environment({ name, key, machine, window, waits = false }: ProcessOptions): NodeJS.ProcessEnv {
  return {
    PATH: process.env['PATH'],
    FORKD_SHIM_SANDBOX: name,
    FORKD_SHIM_KEY: key,
    FORKD_SHIM_MEM_BYTES: String(memBytesOf(machine)),
    ...(waits && { FORKD_SHIM_WAITS: '1' }),
    ...(window === 'inside' && { FORKD_SHIM_WINDOW: '1' }),
  };
}
