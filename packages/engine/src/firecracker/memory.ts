import { join, resolve } from 'node:path';
import { memBytesOf } from '@forkd/api/constants';
import { EngineError } from '../errors.ts';
import type { RestoreSpec } from '../types.ts';
import { announcement } from './live.ts';
import type { MemoryFiles } from './memory-files.ts';
import { FILES } from './process.ts';
import type { SnapshotLoad } from './requests.ts';
import type { VmRoot } from './vm-root.ts';

/** The memory of one VM that is restored. */
export interface VmMemory {
  /** The memory backend for Firecracker's process `pid`, with paths as that process sees them. */
  backend: (pid: number, vmRoot: VmRoot, signal: AbortSignal) => Promise<SnapshotLoad['memory']>;
  /** Makes the loaded memory the VM's own where it must not be its siblings', before the VM runs. */
  refresh: (pid: number) => Promise<void>;
  /** Called once the process has ended. Idempotent. */
  release: () => Promise<void>;
}

/**
 * Where restored VMs have their memory from. A VM that is the only one of its stack is served page by page by the pager: nothing is
 * written, and nobody is there to share a file with. As long as it runs, others of that stack map a file, whose pages they share. So does
 * a VM with a memory limit: a file's pages are not its own, those that it is served are. One that is to be branched live has memory that
 * it shares with the pager, and with nobody else.
 */
export class MemorySources {
  readonly #files: MemoryFiles;
  /** How many VMs of each stack there are. */
  readonly #users = new Map<string, number>();
  /** Set once it is known that this host cannot serve pages. */
  #filesOnly = false;

  constructor(files: MemoryFiles) {
    this.#files = files;
  }

  /** Acquires the memory of a VM. Release it even if the VM does not start. */
  async acquire(spec: RestoreSpec, live: boolean): Promise<VmMemory> {
    if (live) return lent(spec);
    const key = JSON.stringify([spec.machine.mem_mib, spec.stack]);
    const others = this.#users.get(key) ?? 0;
    this.#users.set(key, others + 1);
    const alone = others === 0 && spec.memoryLimitMib === undefined;
    const undo: Undo = [async () => this.#leave(key)];
    const file = (signal: AbortSignal | undefined) => this.#file(spec, undo, signal);
    let released: Promise<void> | undefined;
    const release = () => (released ??= unwind(undo));
    if (alone && !this.#filesOnly) {
      let path: string | undefined;
      const backend: VmMemory['backend'] = async (pid, vmRoot, signal) => {
        const served = await this.#serve(spec, pid, vmRoot, undo);
        return served ?? showFile((path = await file(signal)), vmRoot);
      };
      // Memory that is served page by page is refreshed while it is served.
      const refresh = async (pid: number) => (path === undefined ? undefined : refreshFile(spec, pid, path));
      return { backend, refresh, release };
    }
    try {
      const path = await file(spec.signal);
      const refresh = (pid: number) => refreshFile(spec, pid, path);
      return { backend: async (_, vmRoot) => showFile(path, vmRoot), refresh, release };
    } catch (error) {
      await release();
      throw error;
    }
  }

  async #file(spec: RestoreSpec, undo: Undo, signal: AbortSignal | undefined): Promise<string> {
    const memBytes = memBytesOf(spec.machine);
    const path = await this.#files.acquire(spec.pager, memBytes, spec.stack, signal);
    undo.push(() => this.#files.release(memBytes, spec.stack));
    return path;
  }

  /** `null` where the host gives out no userfaultfd. */
  async #serve({ id, dir, pager, stack, machine, refresh = [] }: RestoreSpec, pid: number, vmRoot: VmRoot, undo: Undo) {
    if (!(await vmRoot.hasUserfaultfd())) return null;
    const socket = resolve(join(dir, FILES.pages));
    try {
      const memory = { mem_bytes: memBytesOf(machine), stack: [...stack], refresh: [...refresh] };
      await pager.servePages({ sandbox: id, pid, socket, ...memory });
    } catch (error) {
      if (!(error instanceof EngineError) || error.code !== 'unsupported') throw error;
      this.#filesOnly = true;
      return null;
    }
    // A pager that has gone holds nothing any more.
    undo.push(() => pager.release(id).catch(() => undefined));
    return { type: 'Uffd', path: await vmRoot.lend(socket, FILES.pages) } as const;
  }

  #leave(key: string): void {
    const left = (this.#users.get(key) ?? 0) - 1;
    if (left > 0) this.#users.set(key, left);
    else this.#users.delete(key);
  }
}

/** Memory that the pager shares with the VM, and branches live. */
function lent({ id, dir, machine, stack, pager, refresh = [] }: RestoreSpec): VmMemory {
  const backend: VmMemory['backend'] = async (pid) => {
    await pager.announce({ ...announcement({ id, dir, pid, machine, stack }), refresh: [...refresh] });
    return { type: 'File', path: await pager.lendMemory(id), shared: true };
  };
  // A pager that has gone holds nothing any more.
  const release = () => pager.release(id).catch(() => undefined);
  // The pager has refreshed what it lends.
  return { backend, refresh: async () => {}, release };
}

/** A file that siblings map too: what the VM has mapped of it becomes its own. */
async function refreshFile(spec: RestoreSpec, pid: number, path: string): Promise<void> {
  const { pager, machine, refresh = [] } = spec;
  if (refresh.length === 0) return;
  await pager.refreshMapped({ pid, path, mem_bytes: memBytesOf(machine), refresh: [...refresh] });
}

async function showFile(path: string, vmRoot: VmRoot): Promise<SnapshotLoad['memory']> {
  return { type: 'File', path: await vmRoot.lend(path, 'memory') };
}

/** Releases of what was acquired, called in reverse order. */
type Undo = (() => Promise<void>)[];

async function unwind(undo: Undo): Promise<void> {
  for (const step of undo.toReversed()) await step();
}
