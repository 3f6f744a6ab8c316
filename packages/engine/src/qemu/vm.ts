import { randomBytes } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { EngineError } from '../errors.ts';
import { readTail } from '../files.ts';
import type { Pager } from '../pager/client.ts';
import type { Caller } from '../pager/wire.ts';
import { isRunning, killProcess } from '../process.ts';
import type { Machine, Vm, VmExit, VmRecord } from '../types.ts';
import { FILES } from './arguments.ts';
import type { Jail } from './jail.ts';
import { joinGroup, memoryLimitKill, type MemoryLimits, removeMemoryLimit } from './memory-limit.ts';
import { waitUntilRunning } from './monitor.ts';
import type { Idle } from './pool.ts';
import { VmmProcess } from './vmm-process.ts';

/** The longest path that a unix socket can have. */
const SOCKET_PATH_BYTES_MAX = 107;

/** How often the end of a process that is not our child is looked for. */
const ADOPTED_POLL_MS = 250;

const DEFAULT_TIMEOUT_MS = 30_000;

/** Bytes of what a VMM shows its pager. */
const KEY_BYTES = 16;

/** How a VMM is started. */
export interface Launch {
  id: string;
  dir: string;
  program: string;
  args: readonly string[];
  machine: Machine;
  rootImage: string;
  stack: readonly string[];
  /** The file that the VMM finds as its fourth descriptor. */
  deviceState?: string;
  /** Files that it gets a copy of. */
  files?: readonly string[];
  memoryLimitMib?: number | undefined;
  memoryLimits: MemoryLimits;
  shim: string;
  jail: Jail;
  pager: Pager;
  signal: AbortSignal | undefined;
  timeoutMs: number | undefined;
}

/**
 * Starts a VM, in this order: announce it to the pager, so that its memory is ready; start the VMM, whose shim fetches the
 * memory; wait until the VM runs; let the pager connect. What was begun is undone when a step fails.
 */
export async function launch(options: Launch): Promise<Vm> {
  checkSocketPaths(options.dir);
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const { pager, id } = options;
  const key = newKey();
  await pager.announce(announcement(options, { key }));
  let vm: Vm | undefined;
  try {
    const cgroup = await makeLimit(options);
    vm = vmOf(await VmmProcess.start({ ...options, name: id, key, cgroup }), options);
    await inTime(vm, options, (signal) => waitUntilRunning(join(options.dir, FILES.monitor), signal));
    await pager.open(id);
    return vm;
  } catch (error) {
    await (vm ? vm.kill() : pager.release(id).catch(() => undefined));
    if (!vm) await removeMemoryLimit(options.dir);
    throw error;
  }
}

/** What a VMM shows when it calls the pager. */
export function newKey(): string {
  return randomBytes(KEY_BYTES).toString('hex');
}

/** The cgroup of a VMM that has a memory limit. */
async function makeLimit({ dir, memoryLimitMib, memoryLimits }: Launch): Promise<string | undefined> {
  return memoryLimitMib === undefined ? undefined : memoryLimits.create(dir, memoryLimitMib);
}

/** Gives a VMM that waits its VM. On failure the VMM has ended. */
export async function wake(idle: Idle, options: Launch & { deviceState: string }): Promise<Vm> {
  checkSocketPaths(options.dir);
  const { pager, dir, deviceState } = options;
  const vmm = idle.process;
  try {
    await mkdir(dirname(dir), { recursive: true, mode: 0o700 });
    await rename(vmm.dir, dir);
  } catch (error) {
    await killProcess(vmm);
    await pager.release(idle.name).catch(() => undefined);
    throw error;
  }
  // Its sockets go by the names that they have in the directory, wherever that is.
  vmm.dir = dir;
  const vm = vmOf(vmm, options);
  try {
    const cgroup = await makeLimit(options);
    if (cgroup !== undefined) await joinGroup(cgroup, vmm.pid);
    const announce = announcement(options, { pid: vmm.pid });
    await inTime(vm, options, (signal) => pager.wake({ vmm: idle.name, announce, device_state: deviceState }, signal));
    return vm;
  } catch (error) {
    await vm.kill();
    throw error;
  }
}

/** Finds a VM that another process started, and makes it known to the pager if it is not. `null` when it has ended. */
export async function adopt(record: VmRecord, pager: Pager, paused: boolean): Promise<Vm | null> {
  if (!(await isRunning(record))) return null;
  const { sandboxes } = await pager.inventory();
  if (!sandboxes.some((held) => held.sandbox === record.id)) {
    await pager.announce(announcement(record, { pid: record.pid }));
  }
  await pager.open(record.id, paused);
  return new QemuVm(record, pager, endOfProcess(record));
}

/** The VM that a process runs. */
function vmOf(vmm: VmmProcess, { id, machine, stack, pager }: Pick<Launch, 'id' | 'machine' | 'stack' | 'pager'>): Vm {
  const { dir, pid, startTicks, exited } = vmm;
  const explained = exited.then(async (exit) => ({ ...exit, why: await memoryLimitKill(vmm.dir) }));
  return new QemuVm({ id, dir, pid, startTicks, machine, stack }, pager, explained);
}

function announcement({ id, dir, machine, stack }: Pick<Launch, 'id' | 'dir' | 'machine' | 'stack'>, caller: Caller) {
  return {
    sandbox: id,
    caller,
    mem_bytes: machine.mem_mib * 2 ** 20,
    stack: [...stack],
    monitor_socket: join(dir, FILES.pagerMonitor),
    chardev_socket: join(dir, FILES.chardev),
    agent_socket: join(dir, FILES.agent),
  };
}

function checkSocketPaths(dir: string): void {
  const longest = join(dir, FILES.monitor);
  if (Buffer.byteLength(longest) <= SOCKET_PATH_BYTES_MAX) return;
  throw new EngineError(
    'path_too_long',
    `The path ${longest} is longer than a unix socket's may be (${SOCKET_PATH_BYTES_MAX} bytes).`,
    {
      hint: 'Choose a data directory with a shorter path.',
    },
  );
}

/** Waits for what `start` promises, that the VM runs, unless the VMM ends, the caller gives up, or time runs out first. */
async function inTime(vm: Vm, options: Launch, start: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const over = new AbortController();
  const deadline = AbortSignal.timeout(timeoutMs);
  const signals = [over.signal, deadline, ...(options.signal ? [options.signal] : [])];
  const ready = start(AbortSignal.any(signals));
  const ended = vm.exited.then((exit) => {
    throw startFailure(vm.record.id, exit);
  });
  try {
    await Promise.race([ready, ended]);
  } catch (error) {
    options.signal?.throwIfAborted();
    if (!deadline.aborted) throw await explain(error, vm.record.id, vm.exited);
    throw new EngineError('vm_start_timeout', `The VM ${vm.record.id} did not run within ${timeoutMs} ms.`, {
      hint: await readTail(join(options.dir, FILES.log)),
      cause: error,
    });
  } finally {
    over.abort();
    // Whichever lost the race must not be reported as unhandled.
    ready.catch(() => undefined);
    ended.catch(() => undefined);
  }
}

/** A monitor that closes and a process that ends are one event seen twice: the exit knows the reason. */
export async function explain(failure: unknown, id: string, exited: Promise<VmExit>): Promise<unknown> {
  const exit = await Promise.race([exited, delay(ADOPTED_POLL_MS, null, { ref: false })]);
  return exit ? startFailure(id, exit) : failure;
}

function startFailure(id: string, exit: VmExit): EngineError {
  const how = exit.why ?? exit.signal ?? `status ${exit.code}`;
  const last = exit.log.split('\n').slice(-3).join('\n');
  return new EngineError('vm_start_failed', `The VMM of ${id} ended before the VM ran: ${how}.`, {
    hint: last === '' ? 'It left no message.' : `It said: ${last}`,
  });
}

async function endOfProcess(record: VmRecord): Promise<VmExit> {
  // Node has no way to wait for a process that is not its child.
  while (await isRunning(record)) await delay(ADOPTED_POLL_MS, undefined, { ref: false });
  const [log, why] = await Promise.all([readTail(join(record.dir, FILES.log)), memoryLimitKill(record.dir)]);
  return { code: null, signal: null, why, log };
}

class QemuVm implements Vm {
  readonly record: VmRecord;
  readonly agentSocket: string;
  readonly exited: Promise<VmExit>;
  readonly #pager: Pager;
  #killed: Promise<void> | undefined;

  constructor(record: VmRecord, pager: Pager, exited: Promise<VmExit>) {
    this.record = record;
    this.agentSocket = join(record.dir, FILES.agent);
    this.exited = exited;
    this.#pager = pager;
  }

  kill(): Promise<void> {
    this.#killed ??= this.#end();
    return this.#killed;
  }

  async #end(): Promise<void> {
    await killProcess(this.record);
    await this.exited;
    await removeMemoryLimit(this.record.dir);
    // A pager that has gone holds nothing that would need to be released.
    await this.#pager.release(this.record.id).catch(() => undefined);
    const sockets = [FILES.monitor, FILES.pagerMonitor, FILES.chardev, FILES.agent];
    await Promise.all(sockets.map((name) => rm(join(this.record.dir, name), { force: true })));
  }
}
