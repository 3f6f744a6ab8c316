import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { memBytesOf } from '@forkd/api/constants';
import type { Pager } from '../pager/client.ts';
import { endProcess, explain } from '../supervise.ts';
import type { Loadable, Shape, WindowKind, Wires } from '../types.ts';
import { diskArguments, FILES, waitArguments } from './arguments.ts';
import type { FindDiskServer, VmDisk } from './disk.ts';
import type { Jail } from './jail.ts';
import { newKey } from './key.ts';
import { makeDisk, openWire } from './vm.ts';
import { VmmProcess } from './vmm-process.ts';

/** The parts of the host and the engine that a VMM is started with before its VM is known. */
export interface IdleParts {
  /** The directory in which each VMM has its own, on the file system of the VMs' directories. */
  dir: string;
  program: string;
  shim: string;
  jail: Jail;
  window: WindowKind;
  /** Added to its command line. */
  moreArgs?: readonly string[];
  findDiskServer: FindDiskServer | undefined;
  wires?: Wires | undefined;
}

/** A VMM that waits for its VM. */
export interface Idle {
  name: string;
  process: VmmProcess;
  /** The disk of the VMM, which has no content yet. `null` for a machine without one. */
  disk: VmDisk | null;
  pager: Pager;
  /** The name of its network wire, if its machine has a network device, and the process that has the other end. */
  networkKey: string | undefined;
  wires: Wires | undefined;
  /** The VM that it has loaded or is loading. It takes no other. */
  ahead?: Loadable;
  /** Settles when that is loaded. */
  loading?: Promise<void>;
}

/** Has a VMM that waits load a VM that nobody has asked for yet. A VMM that could not has ended. */
export function loadAhead(idle: Idle, from: Loadable): Promise<void> {
  const { stack, refresh, deviceState } = from;
  idle.ahead = from;
  const load = { vmm: idle.name, stack: [...stack], refresh: [...refresh], device_state: deviceState };
  idle.loading = idle.pager.loadAhead(load);
  return idle.loading;
}

/** Starts a VMM of a shape. Resolves when it waits for its VM. Leaves nothing if it fails. */
export async function startIdle(parts: IdleParts, { machine, rootImage }: Shape, pager: Pager): Promise<Idle> {
  const name = `idle-${randomBytes(6).toString('hex')}`;
  const dir = join(parts.dir, name);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const key = newKey();
  const { wires } = parts;
  const network = await openWire({ machine, wires });
  let disk: VmDisk | null = null;
  let idle: Idle | undefined;
  try {
    disk = await makeDisk({ ...parts, machine }, null);
    await pager.prepare({
      vmm: name,
      mem_bytes: memBytesOf(machine),
      monitor_socket: join(dir, FILES.pagerMonitor),
      chardev_socket: join(dir, FILES.chardev),
      agent_socket: join(dir, FILES.agent),
      key,
    });
    const diskArgs = disk === null ? [] : diskArguments(disk.key, parts.jail.pagerDir);
    const own = {
      name,
      key,
      dir,
      args: [...waitArguments(machine, parts.window), ...diskArgs, ...(parts.moreArgs ?? [])],
      network,
    };
    const process = await VmmProcess.start({ ...parts, ...own, machine, rootImage, pager, waits: true });
    idle = { name, process, disk, pager, networkKey: network?.key, wires };
    await untilIdle(idle);
    return idle;
  } catch (error) {
    // The first failure is the one to report.
    await (idle ? endIdle(idle) : discard({ name, disk, pager }, dir)).catch(() => undefined);
    throw error;
  }
}

/** Ends a VMM that waits, and removes its files. */
export async function endIdle(idle: Idle): Promise<void> {
  const { process, networkKey, wires } = idle;
  try {
    await endProcess(process, process.exited);
  } finally {
    await discard(idle, process.dir);
    if (networkKey !== undefined) await wires?.release(networkKey);
  }
}

/** The sockets exist before QEMU runs, so the pager may notice its death first. The exit has the reason. */
async function untilIdle({ name, process, pager }: Idle): Promise<void> {
  const ended = process.exited.then(() => {
    throw new Error(`${name} has ended`);
  });
  try {
    await Promise.race([pager.awaitIdle(name), ended]);
  } catch (error) {
    throw await explain(error, name, process.exited);
  }
}

async function discard({ name, disk, pager }: Pick<Idle, 'name' | 'disk' | 'pager'>, dir: string): Promise<void> {
  // A pager that has gone holds nothing that would need to be released.
  await pager.release(name).catch(() => undefined);
  await disk?.close().catch(() => undefined);
  await rm(dir, { recursive: true, force: true });
}
