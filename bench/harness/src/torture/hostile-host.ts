import { execFile } from 'node:child_process';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { messageOf } from '@forkd/api/constants';

const COMPACT = '/proc/sys/vm/compact_memory';
const THP = '/sys/kernel/mm/transparent_hugepage';
const ZRAM_CONTROL = '/sys/class/zram-control';
const MEMORY_CGROUPS = '/sys/fs/cgroup/memory';
const SWAP_BYTES = 2 * 2 ** 30;
/** Rest between two compactions or reclaims, so that the kernel finishes one before the next is requested. */
const REST_MS = 20;
const RECLAIM_REST_MS = 1000;
const RECLAIM_MS_MAX = 500;

/** A way in which the host treats memory in a run, or the reason why it is unavailable. */
export type HostFeature =
  | { name: string; works: true; rounds: number }
  | { name: string; works: false; reason: string };

/**
 * A host that moves the memory of its guests as much as it can: it compacts memory without pause, collapses huge pages, and
 * reclaims what one memory cgroup holds into swap. Disposing it restores every setting that it has changed.
 */
export class HostileHost implements AsyncDisposable {
  readonly #features = new Map<string, HostFeature>();
  readonly #undo: (() => Promise<unknown>)[] = [];
  #cgroup: string | undefined;

  /** Starts everything that the host supports. Missing features are in {@link features} with the reason. */
  static async prepare(): Promise<HostileHost> {
    const host = new HostileHost();
    await host.#try('compaction', () => readFile('/proc/sys/vm/compaction_proactiveness'));
    await host.#try('huge pages', () => host.#hurryKhugepaged());
    await host.#try('swap', () => host.#swapOn());
    await host.#try('reclaim', () => host.#makeCgroup());
    return host;
  }

  /** Features in the order in which they were tried. */
  get features(): HostFeature[] {
    return [...this.#features.values()];
  }

  /** Puts processes under reclaim, with all that they start later. */
  async hold(pids: readonly number[]): Promise<void> {
    if (this.#cgroup === undefined) return;
    // A process may have ended meanwhile.
    for (const pid of pids) await writeFile(join(this.#cgroup, 'cgroup.procs'), String(pid)).catch(() => undefined);
  }

  /** Compacts and reclaims until `signal` fires. */
  async run(signal: AbortSignal): Promise<void> {
    const cgroup = this.#cgroup;
    await Promise.all([
      this.#repeat('compaction', REST_MS, signal, () => writeFile(COMPACT, '1')),
      cgroup !== undefined && this.#repeat('reclaim', RECLAIM_REST_MS, signal, () => reclaim(cgroup)),
    ]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const undo of this.#undo.toReversed()) await undo();
  }

  async #try(name: string, prepare: () => Promise<unknown>): Promise<void> {
    try {
      await prepare();
      this.#features.set(name, { name, works: true, rounds: 0 });
    } catch (error) {
      this.#features.set(name, { name, works: false, reason: messageOf(error) });
    }
  }

  async #repeat(name: string, restMs: number, signal: AbortSignal, act: () => Promise<unknown>): Promise<void> {
    const feature = this.#features.get(name);
    if (feature?.works !== true) return;
    while (!signal.aborted) {
      await act();
      feature.rounds += 1;
      await delay(restMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #hurryKhugepaged(): Promise<void> {
    await this.#set(join(THP, 'khugepaged/scan_sleep_millisecs'), '10');
    await this.#set(join(THP, 'enabled'), 'always');
  }

  /** Writes a setting of the kernel, and restores the value that it had at the end. */
  async #set(file: string, value: string): Promise<void> {
    const text = (await readFile(file, 'utf8')).trim();
    const before = /\[(\w+)\]/.exec(text)?.[1] ?? text;
    await writeFile(file, value);
    this.#undo.push(() => writeFile(file, before));
  }

  async #swapOn(): Promise<void> {
    const id = (await readFile(join(ZRAM_CONTROL, 'hot_add'), 'utf8')).trim();
    this.#undo.push(() => writeFile(join(ZRAM_CONTROL, 'hot_remove'), id));
    await writeFile(`/sys/block/zram${id}/disksize`, String(SWAP_BYTES));
    await run('mkswap', [`/dev/zram${id}`]);
    await run('swapon', [`/dev/zram${id}`]);
    this.#undo.push(() => run('swapoff', [`/dev/zram${id}`]));
  }

  async #makeCgroup(): Promise<void> {
    const cgroup = join(MEMORY_CGROUPS, `forkd-torture-${process.pid}`);
    await mkdir(cgroup);
    this.#cgroup = cgroup;
    this.#undo.push(() => rmdir(cgroup));
  }
}

const run = promisify(execFile);

/** Reclaims memory for a while. The kernel would continue as long as the processes of the group use memory, so it is killed. */
async function reclaim(cgroup: string): Promise<void> {
  const words = ['if=/dev/zero', `of=${join(cgroup, 'memory.force_empty')}`, 'bs=1', 'count=1', 'conv=notrunc'];
  await run('dd', words, { timeout: RECLAIM_MS_MAX, killSignal: 'SIGKILL' }).catch(() => undefined);
}
