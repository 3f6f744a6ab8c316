import { createHash } from 'node:crypto';
import { chmod, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Pager } from '../pager/client.ts';

interface Held {
  path: string;
  users: number;
  written: Promise<void>;
}

/**
 * The memory of stacks of layers as files, as Firecracker loads them. VMs of one stack map one file, and so share its pages. It is
 * removed after its last user: who has mapped it keeps it.
 */
export class MemoryFiles {
  readonly #dir: string;
  readonly #held = new Map<string, Held>();
  #serial = 0;

  private constructor(dir: string) {
    this.#dir = dir;
  }

  /** Removes what an earlier process left in `dir`, which is this one's alone. */
  static async open(dir: string): Promise<MemoryFiles> {
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir, { recursive: true, mode: 0o700 });
    return new MemoryFiles(dir);
  }

  /** Gets the memory file of a stack. Call {@link release} when it is no longer needed. */
  async acquire(pager: Pager, memBytes: number, stack: readonly string[], signal?: AbortSignal): Promise<string> {
    const key = keyOf(memBytes, stack);
    let held = this.#held.get(key);
    if (!held) {
      const path = join(this.#dir, `${(this.#serial += 1)}-${key.slice(0, 16)}`);
      held = { path, users: 0, written: write(pager, memBytes, stack, path) };
      this.#held.set(key, held);
    }
    held.users += 1;
    try {
      await orAborted(held.written, signal);
      return held.path;
    } catch (error) {
      await this.#leave(key, held);
      throw error;
    }
  }

  async release(memBytes: number, stack: readonly string[]): Promise<void> {
    const key = keyOf(memBytes, stack);
    const held = this.#held.get(key);
    if (held) await this.#leave(key, held);
  }

  async #leave(key: string, held: Held): Promise<void> {
    held.users -= 1;
    if (held.users > 0) return;
    if (this.#held.get(key) === held) this.#held.delete(key);
    await held.written.catch(() => undefined);
    await rm(held.path, { force: true });
  }
}

/** Processes of other users read it, to whom a link to it is given: the directory is closed to them. */
async function write(pager: Pager, memBytes: number, stack: readonly string[], path: string): Promise<void> {
  await pager.exportMemory(memBytes, stack, path);
  await chmod(path, 0o444);
}

function keyOf(memBytes: number, stack: readonly string[]): string {
  return createHash('sha256')
    .update(JSON.stringify([memBytes, stack]))
    .digest('hex');
}

/** The file is written to its end also when one of those who wait for it gives up. */
async function orAborted(written: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return written;
  signal.throwIfAborted();
  let abort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
  });
  try {
    await Promise.race([written, aborted]);
  } finally {
    if (abort) signal.removeEventListener('abort', abort);
    written.catch(() => undefined);
  }
}
