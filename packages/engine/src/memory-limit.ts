import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { messageOf } from '@forkd/api/constants';
import type { Isolation, VmExit, VmFault } from './types.ts';

/** A group whose last process has just ended may count as in use for a moment. */
const REMOVE_ATTEMPTS = 50;
const RETRY_MS = 20;

/** The files of a group, which differ between the two versions of cgroups. */
const FILES = {
  v1: { limit: 'memory.limit_in_bytes', swap: 'memory.memsw.limit_in_bytes', events: 'memory.oom_control' },
  v2: { limit: 'memory.max', swap: 'memory.swap.max', events: 'memory.events' },
} as const;

/** A hierarchy of cgroups that limits memory. */
interface Hierarchy {
  version: keyof typeof FILES;
  /** Where it is mounted. */
  mount: string;
}

/** Limits of what a VMM's own memory may come to: one cgroup each, named after the VMM's directory. */
export class MemoryLimits {
  /** Why none can be had here, as a sentence; `null` when they can. */
  readonly unavailable: string | null;
  readonly #hierarchy: Hierarchy | null;

  private constructor(hierarchy: Hierarchy | null, unavailable: string | null) {
    this.#hierarchy = hierarchy;
    this.unavailable = unavailable;
  }

  /** Tries one, on a directory name that no VMM has. */
  static async probe(): Promise<MemoryLimits> {
    const hierarchy = await findHierarchy();
    if (hierarchy === null) return new MemoryLimits(null, 'No cgroup hierarchy that limits memory is mounted.');
    const limits = new MemoryLimits(hierarchy, null);
    const trial = `/probe/${process.pid}`;
    try {
      await limits.create(trial, 64);
      return limits;
    } catch (error) {
      const reason = messageOf(error);
      return new MemoryLimits(null, `No memory cgroup can be made under ${hierarchy.mount}: ${reason}.`);
    } finally {
      await removeGroup(hierarchy, trial).catch(() => undefined);
    }
  }

  /** Makes the group of the VMM in `dir`, and returns its directory. Only where {@link unavailable} is null. */
  async create(dir: string, limitMib: number): Promise<string> {
    const hierarchy = this.#hierarchy;
    if (hierarchy === null) throw new Error(this.unavailable ?? 'there is no memory cgroup');
    const group = groupOf(hierarchy, dir);
    await makeGroup(hierarchy, group);
    const { limit, swap } = FILES[hierarchy.version];
    const bytes = String(limitMib * 2 ** 20);
    await writeFile(join(group, limit), bytes);
    // Swapped memory would not count otherwise. A kernel without swap accounting has no such file.
    await writeFile(join(group, swap), hierarchy.version === 'v1' ? bytes : '0').catch(() => undefined);
    return group;
  }
}

/** Describes memory limits as an isolation measure. */
export function isolationOfLimits({ unavailable }: MemoryLimits): Isolation {
  const detail = unavailable ?? 'The memory of a VMM can be limited.';
  return { id: 'memory_cgroup', ok: unavailable === null, detail };
}

/** Puts a process that runs into a group. What it had before is not counted. */
export async function joinGroup(group: string, pid: number): Promise<void> {
  await writeFile(join(group, 'cgroup.procs'), String(pid));
}

/** Why the VMM in `dir` was killed, if its limit was the reason; `null` otherwise, and for one without a limit. */
async function memoryLimitKill(dir: string): Promise<VmFault | null> {
  const hierarchy = await findHierarchy();
  if (hierarchy === null) return null;
  const group = groupOf(hierarchy, dir);
  const { events, limit } = FILES[hierarchy.version];
  const read = (name: string) => readFile(join(group, name), 'utf8').catch(() => '');
  const kills = /^oom_kill (\d+)$/m.exec(await read(events))?.[1];
  if (kills === undefined || kills === '0') return null;
  const limitMib = Math.round(Number(await read(limit)) / 2 ** 20);
  return { kind: 'memory_limit', text: `it used more than its memory limit of ${limitMib} MiB` };
}

/** The same end, and whether it was the limit's doing. `dir` is asked for the VMM's directory then. */
export async function withLimitKill(exited: Promise<VmExit>, dir: () => string): Promise<VmExit> {
  const exit = await exited;
  return { ...exit, why: await memoryLimitKill(dir()) };
}

/** Removes the group of the VMM that was in `dir`, if it has one. Its processes have ended. */
export async function removeMemoryLimit(dir: string): Promise<void> {
  const hierarchy = await findHierarchy();
  if (hierarchy !== null) await removeGroup(hierarchy, dir);
}

async function removeGroup(hierarchy: Hierarchy, dir: string): Promise<void> {
  const group = groupOf(hierarchy, dir);
  for (let attempt = 1; ; attempt += 1) {
    try {
      await rmdir(group);
      break;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT') return;
      if (code !== 'EBUSY' || attempt >= REMOVE_ATTEMPTS) throw error;
      await delay(RETRY_MS);
    }
  }
  // The last one takes the parent with it, whichever process' that is.
  await rmdir(parentOf(hierarchy)).catch(() => undefined);
}

/** Another's last group may take the parent away in between. */
async function makeGroup(hierarchy: Hierarchy, group: string): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await mkdir(parentOf(hierarchy), { recursive: true });
      if (hierarchy.version === 'v2') await delegateMemory(hierarchy);
      await mkdir(group, { recursive: true });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || attempt >= REMOVE_ATTEMPTS) throw error;
    }
  }
}

/** A group of version 2 has a limit only if its ancestors delegate the controller. */
async function delegateMemory(hierarchy: Hierarchy): Promise<void> {
  for (const dir of [hierarchy.mount, parentOf(hierarchy)]) {
    const file = join(dir, 'cgroup.subtree_control');
    if (!(await readFile(file, 'utf8')).split(/\s/).includes('memory')) await writeFile(file, '+memory');
  }
}

function parentOf({ mount }: Hierarchy): string {
  return join(mount, 'forkd');
}

/** The group of a VM, by the directory of the VM, even after the process that created it has ended. */
function groupOf(hierarchy: Hierarchy, dir: string): string {
  return join(parentOf(hierarchy), createHash('sha256').update(dir).digest('hex').slice(0, 32));
}

/** Finds the hierarchy of version 2 if it limits memory, and that of version 1 otherwise. */
async function findHierarchy(): Promise<Hierarchy | null> {
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n').map((line) => line.split(' '));
  for (const [, mount = '', kind] of mounts) {
    if (kind !== 'cgroup2') continue;
    const controllers = await readFile(join(mount, 'cgroup.controllers'), 'utf8').catch(() => '');
    if (controllers.split(/\s/).includes('memory')) return { version: 'v2', mount };
  }
  const first = mounts.find(([, , kind, options = '']) => kind === 'cgroup' && options.split(',').includes('memory'));
  const mount = first?.[1];
  return mount !== undefined && (await readdir(mount).catch(() => [])).length > 0 ? { version: 'v1', mount } : null;
}
