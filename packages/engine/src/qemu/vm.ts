import { randomBytes } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Pager } from '../pager/client.ts';
import type { BranchOptions } from '../pager/link.ts';
import type { BranchDone, Caller, MemoryUse } from '../pager/wire.ts';
import { isRunning, killProcess } from '../process.ts';
import { checkSocketPath, endOfProcess, inTime } from '../supervise.ts';
import type { Capabilities, Machine, PauseFloor, Vm, VmBranch, VmExit, VmRecord } from '../types.ts';
import { FILES } from './arguments.ts';
import type { Jail } from './jail.ts';
import { joinGroup, withLimitKill, type MemoryLimits, removeMemoryLimit } from '../memory-limit.ts';
import { waitUntilRunning } from './monitor.ts';
import type { Idle } from './pool.ts';
import { VmmProcess } from './vmm-process.ts';

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
  /** What is open to the VM. */
  capabilities: Capabilities;
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
  checkSocketPath(join(options.dir, FILES.monitor));
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const { pager, id } = options;
  const key = newKey();
  await pager.announce(announcement(options, { key }));
  let vm: Vm | undefined;
  try {
    const cgroup = await makeLimit(options);
    vm = vmOf(await VmmProcess.start({ ...options, name: id, key, cgroup }), options);
    await running(vm, options, (signal) => waitUntilRunning(join(options.dir, FILES.monitor), signal));
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
  checkSocketPath(join(options.dir, FILES.monitor));
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
    await running(vm, options, (signal) => pager.wake({ vmm: idle.name, announce, device_state: deviceState }, signal));
    return vm;
  } catch (error) {
    await vm.kill();
    throw error;
  }
}

/** Finds a VM that another process started, and makes it known to the pager if it is not. `null` when it has ended. */
export async function adopt(record: VmRecord, home: Home, paused: boolean): Promise<Vm | null> {
  const { pager } = home;
  if (!(await isRunning(record))) return null;
  await pager.adopt(announcement(record, { pid: record.pid }), paused);
  return new QemuVm(
    record,
    home,
    withLimitKill(endOfProcess(record, join(record.dir, FILES.log)), () => record.dir),
  );
}

/** The VM that a process runs. */
function vmOf(vmm: VmmProcess, options: Launch): Vm {
  const { id, machine, stack } = options;
  const { dir, pid, startTicks, exited } = vmm;
  return new QemuVm(
    { id, dir, pid, startTicks, machine, stack },
    options,
    withLimitKill(exited, () => vmm.dir),
  );
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

/** {@link inTime} for a VM of QEMU's. */
function running(vm: Vm, options: Launch, start: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const { id, signal, timeoutMs } = options;
  return inTime({ id, exited: vm.exited, log: join(options.dir, FILES.log), signal, timeoutMs }, start);
}

/** What a VM needs of its engine. */
type Home = Pick<Launch, 'pager' | 'capabilities'>;

class QemuVm implements Vm {
  readonly record: VmRecord;
  readonly capabilities: Capabilities;
  readonly agentSocket: string;
  readonly agentPort = null;
  readonly exited: Promise<VmExit>;
  /** What it has written is known of itself: its branches are built on what it was started from. */
  readonly builtOn = [];
  readonly #pager: Pager;
  #killed: Promise<void> | undefined;

  constructor(record: VmRecord, { pager, capabilities }: Home, exited: Promise<VmExit>) {
    this.record = record;
    this.capabilities = capabilities;
    this.agentSocket = join(record.dir, FILES.agent);
    this.exited = exited;
    this.#pager = pager;
  }

  pause(signal?: AbortSignal): Promise<void> {
    return this.#pager.pause(this.record.id, signal);
  }

  resume(signal?: AbortSignal): Promise<void> {
    return this.#pager.resume(this.record.id, signal);
  }

  branch({ mode, resume, audit = false }: VmBranch, options?: BranchOptions): Promise<BranchDone> {
    return this.#pager.branch({ sandbox: this.record.id, mode, resume, audit }, options);
  }

  floor(): Promise<PauseFloor> {
    return this.#pager.floor(this.record.id);
  }

  memory(): Promise<MemoryUse> {
    return this.#pager.memory(this.record.id);
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
