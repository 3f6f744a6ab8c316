import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { memBytesOf } from '@forkd/api/constants';
import { exists } from '../files.ts';
import { readMemoryUse } from '../memory.ts';
import type { Pager } from '../pager/client.ts';
import type { Announce, MemoryUse } from '../pager/wire.ts';
import type { Capabilities, VmRecord } from '../types.ts';
import { FILES } from './process.ts';

/**
 * VMs of a Firecracker with the live extensions, which the pager branches as it does QEMU's: it lends them their memory, speaks to
 * their API inside a pause, and has the guest's channel pass through its gate.
 */

/** Unit in which `stat` counts the blocks of a file, on any file system. */
const BLOCK_BYTES = 512;

/** The capabilities of one VM of an engine that has live branches. */
export function capabilitiesOfVm(of: Capabilities, pager: Pager, memoryLimitMib: number | undefined): Capabilities {
  if (of.live !== true) return of;
  if (memoryLimitMib !== undefined) {
    return {
      ...of,
      ...withoutLive('A VM with a memory limit has none: the memory that it would share would not count.'),
    };
  }
  const { liveUnavailable: why } = pager;
  return why === null ? of : { ...of, ...withoutLive(`Live branches cannot be had here: ${why}.`) };
}

/** Marks everything that needs live branches as unavailable. */
export function withoutLive(why: string): Pick<Capabilities, 'live' | 'floor'> {
  return { live: why, floor: 'Firecracker saves no device state without the memory.' };
}

/** Announces a VM whose process has been started to the pager. */
export function announcement({ id, dir, pid, machine, stack }: Omit<VmRecord, 'startTicks'>): Announce {
  return {
    sandbox: id,
    vmm: 'firecracker',
    caller: { pid },
    mem_bytes: memBytesOf(machine),
    stack: [...stack],
    monitor_socket: join(dir, FILES.api),
    chardev_socket: join(dir, FILES.agent),
    agent_socket: join(dir, FILES.channel),
  };
}

/** The memory of a VM that is a file which it alone maps, and of its VMM. All that the file has is the VM's own. */
export async function readLentMemoryUse(pid: number): Promise<MemoryUse> {
  const use = await readMemoryUse(pid);
  const maps = await readFile(`/proc/${pid}/maps`, 'latin1');
  const range = /^([0-9a-f]+-[0-9a-f]+) rw-s .*\/memfd:forkd-memory/m.exec(maps)?.[1];
  // A VM that was booted has no such file.
  if (range === undefined) return use;
  const { blocks } = await stat(`/proc/${pid}/map_files/${range}`);
  const lent = blocks * BLOCK_BYTES;
  return {
    private_bytes: use.private_bytes + lent,
    // The kernel counts the pages of the file that the VM has touched as shared.
    shared_bytes: Math.max(0, use.shared_bytes - lent),
  };
}

/** Whether a pager has a VM's memory. */
export async function isAttached(pager: Pager, id: string): Promise<boolean> {
  const { sandboxes } = await pager.inventory();
  return sandboxes.some(({ sandbox, attached }) => sandbox === id && attached);
}

/** Whether a VM that another process has started is one that the pager branches: its channel is there as long as it is. */
export function isLive({ dir }: VmRecord): Promise<boolean> {
  return exists(join(dir, FILES.channel));
}
