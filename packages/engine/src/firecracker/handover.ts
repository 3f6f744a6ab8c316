import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { type FileHandle, open, readFile, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { anySignal } from '../signals.ts';
import type { VmExit } from '../types.ts';
import type { FirecrackerApi } from './api.ts';
import type { Features } from './features.ts';
import { idleKernel } from './idle-kernel.ts';

/** Memory of the VM that nobody needs: it is written down once. */
const TRIAL_MIB = 32;
/** A build that was asked for memory has handed it over within this time. */
const HANDOVER_MS = 5_000;
/** A socket breaks before the exit of its process is known. */
const EXIT_MS = 1_000;
const MESSAGE_BYTES_MAX = 64 << 10;
const DOOR = 'wp.sock';

/** A file system in which programs share memory: write-protection is of memory, never of a disk's pages. */
const SHARED_MEMORY = '/dev/shm';
const TMPFS = 0x0102_1994;

/**
 * The result of asking a VM for its memory: `true` if the VM hands it over and keeps running, or else a sentence. Firecracker's
 * system call filters kill a process that creates a userfaultfd, and the VM with it.
 */
export interface Handover {
  /** The result for a VM that has been loaded and does not run yet. */
  loaded: true | string;
  /** The result for a running VM. */
  running: true | string;
}

/** An empty process of the build, in a directory of its own, which ends with the trial. */
export interface TrialProcess {
  api: FirecrackerApi;
  dir: string;
  exited: Promise<VmExit>;
  signal: AbortSignal;
}

/** Starts such a process, and ends it once `use` is done. */
export type WithProcess = <T>(use: (trial: TrialProcess) => Promise<T>) => Promise<T>;

/** Asks VMs that nobody needs for their memory: one that was booted, and one that was loaded as a child is. */
export async function tryHandover(withProcess: WithProcess, features: Features): Promise<Handover> {
  try {
    return await withProcess(async (booted) => {
      await boot(booted);
      // Resume the VM first, because being asked may end it.
      await booted.api.resume(booted.signal);
      const running = await ask(booted);
      const loaded = await withProcess((child) => askLoaded(child, booted.dir, features));
      return { loaded, running };
    });
  } catch (error) {
    const why = `a VM to try it with could not be had: ${(error as Error).message}`;
    return { loaded: why, running: why };
  }
}

/** Calls {@link tryHandover}, but does not ask a program again that has succeeded since the host was booted. */
export async function rememberedHandover(
  program: string,
  dir: string,
  attempt: () => Promise<Handover>,
): Promise<Handover> {
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const digest = createHash('sha256')
    .update(await readFile(program))
    .update(bootId)
    .digest('hex');
  const path = join(dir, `handover-${digest.slice(0, 32)}`);
  if ((await readFile(path, 'utf8').catch(() => '')) === 'yes') return { loaded: true, running: true };
  const found = await attempt();
  if (found.loaded === true && found.running === true) await writeFile(path, 'yes');
  return found;
}

/** Boots a VM whose processor rests, and takes a snapshot of it. It is paused then. */
async function boot({ api, dir, signal }: TrialProcess): Promise<void> {
  const kernel = join(dir, 'kernel');
  await writeFile(kernel, idleKernel());
  await api.setMachineConfig({ vcpu_count: 1, mem_size_mib: TRIAL_MIB, track_dirty_pages: true }, signal);
  await api.setBootSource({ kernel_image_path: kernel }, signal);
  await api.start(signal);
  await api.pause(signal);
  await api.createSnapshot({ snapshot_type: 'Full', snapshot_path: 'state', mem_file_path: 'memory' }, signal);
}

/** Loads that snapshot as a child is loaded, asks for its memory, and saves its device state as a live branch does. */
async function askLoaded(child: TrialProcess, source: string, features: Features): Promise<true | string> {
  const { api, dir, signal } = child;
  const file = await inMemory(await readFile(join(source, 'memory')));
  try {
    const memory = { type: 'File', path: `/proc/${process.pid}/fd/${file.fd}`, shared: true } as const;
    const load = { snapshotPath: join(source, 'state'), memory, trackDirtyPages: true, resume: false };
    await api.loadSnapshot(load, features, signal);
  } finally {
    await file.close();
  }
  const handed = await ask(child);
  if (handed !== true) return handed;
  await api.resume(signal);
  await api.pause(signal);
  const save = { snapshot_type: 'VmstateOnly', snapshot_path: 'alone', mem_file_path: '/dev/null' } as const;
  await api.createSnapshot(save, signal);
  if ((await stat(join(dir, 'alone'))).size === 0) return 'it saved an empty device state.';
  await api.resume(signal);
  return true;
}

/** A file in memory with that content and without a name, as the pager lends VMs theirs. */
async function inMemory(content: Buffer): Promise<FileHandle> {
  if ((await statfs(SHARED_MEMORY)).type !== TMPFS) throw new Error(`${SHARED_MEMORY} is no file system in memory.`);
  const path = join(SHARED_MEMORY, `forkd-probe-${randomUUID()}`);
  const file = await open(path, 'wx+', 0o600);
  try {
    await rm(path);
    await file.writeFile(content);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Has a process hand over the memory of its VM. */
async function ask({ api, dir, exited, signal }: TrialProcess): Promise<true | string> {
  const door = createServer();
  door.listen(join(dir, DOOR));
  await once(door, 'listening');
  const over = new AbortController();
  const handing = handedOver(door, anySignal(signal, over.signal, AbortSignal.timeout(HANDOVER_MS)));
  // Unless it is waited for, nobody needs to know how it failed.
  handing.catch(() => undefined);
  try {
    const refusal = await api.refusal('PUT', '/uffd/wp', { socket: DOOR }, signal);
    if (refusal !== '') return `asked for the memory of a VM, it refused: ${refusal}`;
    const bytes = await handing;
    if (bytes !== TRIAL_MIB * 2 ** 20) return `asked for the memory of a VM, it handed over ${bytes} bytes of it.`;
    await api.instance(signal);
    return true;
  } catch (error) {
    signal.throwIfAborted();
    const exit = await Promise.race([exited, delay(EXIT_MS, null, { ref: false })]);
    if (exit === null) return `asked for the memory of a VM, it handed over nothing: ${(error as Error).message}`;
    const how = exit.signal ?? `status ${exit.code}`;
    return `asked for the memory of a VM, it ended (${how}). Its filters of system calls must allow userfaultfd.`;
  } finally {
    over.abort();
    door.close();
  }
}

/** How many bytes the regions have that the first who comes names. */
async function handedOver(door: Server, signal: AbortSignal): Promise<number> {
  const [socket] = (await once(door, 'connection', { signal })) as [Socket];
  const abort = () => socket.destroy(signal.reason as Error);
  signal.addEventListener('abort', abort, { once: true });
  try {
    let text = '';
    for await (const part of socket.setEncoding('utf8')) {
      text += part as string;
      if (text.length > MESSAGE_BYTES_MAX) throw new Error('its message has no end.');
      if (text.trimEnd().endsWith(']')) break;
    }
    return bytesIn(text);
  } finally {
    signal.removeEventListener('abort', abort);
    socket.destroy();
  }
}

function bytesIn(text: string): number {
  const list: unknown = JSON.parse(text);
  if (!Array.isArray(list)) throw new Error('its message is no list of regions.');
  const sizes = list.map((region: { size?: unknown } | null) => region?.size);
  return sizes.reduce<number>((sum, size) => sum + (Number.isSafeInteger(size) ? (size as number) : NaN), 0);
}
