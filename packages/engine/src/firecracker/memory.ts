import { join, resolve } from 'node:path';
import { EngineError } from '../errors.ts';
import type { Machine, RestoreSpec } from '../types.ts';
import { announcement } from './live.ts';
import type { MemoryFiles } from './memory-files.ts';
import type { Place } from './place.ts';
import { FILES } from './process.ts';
import type { SnapshotLoad } from './requests.ts';

/** The memory of one VM that is restored. */
export interface VmMemory {
  /** What Firecracker's process `pid` is told of it, which finds it in its place. */
  backend: (pid: number, place: Place, signal: AbortSignal) => Promise<SnapshotLoad['memory']>;
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

  /** To be released also when nothing comes of the VM. */
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
      const backend: VmMemory['backend'] = async (pid, place, signal) =>
        (await this.#serve(spec, pid, place, undo)) ?? showFile(await file(signal), place);
      return { backend, release };
    }
    try {
      const path = await file(spec.signal);
      return { backend: async (_, place) => showFile(path, place), release };
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
  async #serve({ id, dir, pager, stack, machine }: RestoreSpec, pid: number, place: Place, undo: Undo) {
    if (!(await place.hasUserfaultfd())) return null;
    const socket = resolve(join(dir, FILES.pages));
    try {
      await pager.servePages({ sandbox: id, pid, mem_bytes: memBytesOf(machine), stack: [...stack], socket });
    } catch (error) {
      if (!(error instanceof EngineError) || error.code !== 'unsupported') throw error;
      this.#filesOnly = true;
      return null;
    }
    // A pager that has gone holds nothing any more.
    undo.push(() => pager.release(id).catch(() => undefined));
    return { type: 'Uffd', path: await place.lend(socket, FILES.pages) } as const;
  }

  #leave(key: string): void {
    const left = (this.#users.get(key) ?? 0) - 1;
    if (left > 0) this.#users.set(key, left);
    else this.#users.delete(key);
  }
}

/** Memory that the pager shares with the VM, and branches live. */
function lent({ id, dir, machine, stack, pager }: RestoreSpec): VmMemory {
  const backend: VmMemory['backend'] = async (pid) => {
    await pager.announce(announcement({ id, dir, pid, machine, stack }));
    return { type: 'File', path: await pager.lendMemory(id), shared: true };
  };
  // A pager that has gone holds nothing any more.
  return { backend, release: () => pager.release(id).catch(() => undefined) };
}

async function showFile(path: string, place: Place): Promise<SnapshotLoad['memory']> {
  return { type: 'File', path: await place.lend(path, 'memory') };
}

function memBytesOf({ mem_mib: mib }: Machine): number {
  return mib * 2 ** 20;
}

/** What was acquired, to be given back in reverse. */
type Undo = (() => Promise<void>)[];

async function unwind(undo: Undo): Promise<void> {
  for (const step of undo.toReversed()) await step();
}
