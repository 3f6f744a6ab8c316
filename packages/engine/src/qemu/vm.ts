import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { memBytesOf } from '@forkd/api/constants';
import type { DiskUse } from '../disk/wire.ts';
import { EngineError } from '../errors.ts';
import { joinGroup, withLimitKill, type MemoryLimits, removeMemoryLimit } from '../memory-limit.ts';
import type { Pager } from '../pager/client.ts';
import type { Caller, MemoryUse, Refresh } from '../pager/wire.ts';
import { isRunning, killProcess } from '../process.ts';
import { checkSocketPath, endOfProcess, endProcess, inTime } from '../supervise.ts';
import type {
  Capabilities,
  Machine,
  PauseFloor,
  Vm,
  VmBranch,
  VmBranchDone,
  VmBranchOptions,
  VmExit,
  VmFault,
  VmNetwork,
  VmRecord,
  WindowKind,
  Wires,
} from '../types.ts';
import { diskArguments, FILES } from './arguments.ts';
import { NETWORK_UNAVAILABLE } from './capabilities.ts';
import { branchWithDisk, type FindDiskServer, VmDisk } from './disk.ts';
import type { Idle } from './idle.ts';
import type { Jail } from './jail.ts';
import { newKey } from './key.ts';
import { waitUntilRunning } from './monitor.ts';
import { type OnStall, RunStateWatch, type Stall } from './run-state.ts';
import { VmmProcess } from './vmm-process.ts';

/** How a VMM is started. */
export interface Launch {
  id: string;
  dir: string;
  program: string;
  args: readonly string[];
  machine: Machine;
  rootImage: string;
  stack: readonly string[];
  /** The layers of the disk, if the machine has one. */
  diskLayers?: readonly string[] | undefined;
  findDiskServer: FindDiskServer | undefined;
  refresh?: readonly Refresh[] | undefined;
  /** The file that the VMM finds as its fourth descriptor. */
  deviceState?: string;
  /** Files that it gets a copy of. */
  files?: readonly string[];
  memoryLimitMib?: number | undefined;
  memoryLimits: MemoryLimits;
  /** The network policy, if its machine has a network device. */
  network?: VmNetwork | undefined;
  /** The network process, where there is one. */
  wires?: Wires | undefined;
  /** Capabilities of the VM. */
  capabilities: Capabilities;
  /** The watches of the engine's VMs, by the VM's id: a monitor has one client. */
  watches: Map<string, RunStateWatch>;
  shim: string;
  jail: Jail;
  /** The conductor of the pauses of live branches. */
  window: WindowKind;
  pager: Pager;
  signal: AbortSignal | undefined;
  timeoutMs: number | undefined;
}

/** The same for a VMM that has been started before. */
export type Wake = Omit<Launch, 'args'> & { deviceState: string };

type Given = Omit<Launch, 'args'>;

/**
 * Starts a VM, in this order: announce it to the pager, so that its memory is ready; start the VMM, whose shim fetches the
 * memory; wait until the VM runs; let the pager connect. What was begun is undone when a step fails.
 */
export async function launch(options: Launch): Promise<Vm> {
  checkSocketPath(join(options.dir, FILES.monitor));
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const { pager, id, jail } = options;
  const key = newKey();
  const network = await openWire(options);
  const disk = await makeDisk(options, options.diskLayers ?? []);
  let vm: QemuVm | undefined;
  try {
    await pager.announce(announcement(options, { key }));
    const cgroup = await makeLimit(options);
    const args = [...options.args, ...(disk === null ? [] : diskArguments(disk.key, jail.pagerDir))];
    vm = vmOf(
      await VmmProcess.start({ ...options, args, name: id, key, cgroup, network }),
      options,
      disk,
      network?.key,
    );
    await running(vm, options, (signal) => waitUntilRunning(join(options.dir, FILES.monitor), signal));
    await bindWire(options, network?.key);
    await pager.open(id);
    vm.watch();
    return vm;
  } catch (error) {
    await (vm ? vm.kill() : pager.release(id).catch(() => undefined));
    if (!vm) {
      await removeMemoryLimit(options.dir);
      await disk?.close().catch(() => undefined);
    }
    throw error;
  }
}

/** The disk of a VM whose machine has one. `layers` is as in {@link VmDisk.create}. */
export async function makeDisk(
  { machine, findDiskServer }: Pick<Launch, 'machine' | 'findDiskServer'>,
  layers: readonly string[] | null,
): Promise<VmDisk | null> {
  return machine.disk_gib === undefined ? null : VmDisk.create(machine, findDiskServer, layers);
}

/** The wire of a VMM that is about to be started. Undefined if its machine has no network device. */
export async function openWire({
  machine,
  wires,
}: Pick<Launch, 'machine' | 'wires'>): Promise<{ socket: string; key: string } | undefined> {
  if (machine.network !== true) return undefined;
  if (wires === undefined) throw new EngineError('unsupported', NETWORK_UNAVAILABLE);
  return { socket: await wires.open(), key: newKey() };
}

/** Gives the wire of a VMM to its VM. Frames that the guest has sent by then wait on the wire. */
async function bindWire({ id, network, wires }: Given, key: string | undefined): Promise<void> {
  if (key === undefined) return;
  if (network === undefined) throw new EngineError('bad_request', `The VM ${id} has a network device and no policy.`);
  await wires?.bind({ key, sandbox: id, ...network });
}

/** The cgroup of a VMM that has a memory limit. */
async function makeLimit({ dir, memoryLimitMib, memoryLimits }: Given): Promise<string | undefined> {
  return memoryLimitMib === undefined ? undefined : memoryLimits.create(dir, memoryLimitMib);
}

/** Gives a VMM that waits its VM. On failure the VMM has ended. */
export async function wake(idle: Idle, options: Wake): Promise<Vm> {
  checkSocketPath(join(options.dir, FILES.monitor));
  const { pager, dir, deviceState } = options;
  const vmm = idle.process;
  try {
    await idle.loading;
    await move(vmm.dir, dir);
  } catch (error) {
    await killProcess(vmm);
    await pager.release(idle.name).catch(() => undefined);
    await idle.disk?.close().catch(() => undefined);
    if (idle.networkKey !== undefined) await options.wires?.release(idle.networkKey);
    throw error;
  }
  // The sockets have fixed names in the directory of the VM, which may move.
  vmm.dir = dir;
  const vm = vmOf(vmm, options, idle.disk, idle.networkKey);
  try {
    await idle.disk?.bind(options.diskLayers ?? []);
    const cgroup = await makeLimit(options);
    if (cgroup !== undefined) await joinGroup(cgroup, vmm.pid);
    await bindWire(options, idle.networkKey);
    const announce = announcement(options, { pid: vmm.pid });
    await running(vm, options, (signal) => pager.wake({ vmm: idle.name, announce, device_state: deviceState }, signal));
    vm.watchSoon();
    return vm;
  } catch (error) {
    await vm.kill();
    throw error;
  }
}

/** Moves a directory to a place whose parent may be missing. */
async function move(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch {
    await mkdir(dirname(to), { recursive: true, mode: 0o700 });
    await rename(from, to);
  }
}

/** Finds a VM that another process started, and makes it known to the pager if it is not. `null` when it has ended. */
export async function adopt(record: VmRecord, parts: VmParts, paused: boolean): Promise<Vm | null> {
  const { pager } = parts;
  if (!(await isRunning(record))) return null;
  const disk = await reopenDisk(record, parts.findDiskServer);
  await pager.adopt(announcement(record, { pid: record.pid }), paused);
  const exited = withLimitKill(endOfProcess(record, join(record.dir, FILES.log)), () => record.dir);
  const vm = new QemuVm(record, parts, exited, disk);
  vm.watch(paused);
  return vm;
}

async function reopenDisk(
  { diskKey, machine, pid }: VmRecord,
  find: FindDiskServer | undefined,
): Promise<VmDisk | null> {
  if (diskKey === undefined || find === undefined) return null;
  const disk = new VmDisk(diskKey, machine, find);
  await disk.reopen(pid);
  return disk;
}

/** The VM that a process runs. */
function vmOf(vmm: VmmProcess, options: Given, disk: VmDisk | null, networkKey: string | undefined): QemuVm {
  const { id, machine, stack } = options;
  const { dir, pid, startTicks, exited } = vmm;
  return new QemuVm(
    {
      id,
      dir,
      pid,
      startTicks,
      machine,
      stack,
      ...(disk && { diskKey: disk.key }),
      ...(networkKey !== undefined && { networkKey }),
    },
    options,
    withLimitKill(exited, () => vmm.dir),
    disk,
  );
}

type Announced = Pick<Launch, 'id' | 'dir' | 'machine' | 'stack' | 'refresh'>;

function announcement({ id, dir, machine, stack, refresh = [] }: Announced, caller: Caller) {
  return {
    sandbox: id,
    caller,
    mem_bytes: memBytesOf(machine),
    stack: [...stack],
    refresh: [...refresh],
    monitor_socket: join(dir, FILES.pagerMonitor),
    chardev_socket: join(dir, FILES.chardev),
    agent_socket: join(dir, FILES.agent),
  };
}

/** {@link inTime} for a VM of QEMU's. */
function running(vm: Vm, options: Given, start: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const { id, signal, timeoutMs } = options;
  return inTime({ id, exited: vm.exited, log: join(options.dir, FILES.log), signal, timeoutMs }, start);
}

/** The parts of its engine that a VM needs. */
type VmParts = Pick<Launch, 'pager' | 'capabilities' | 'watches' | 'findDiskServer' | 'wires'>;

class QemuVm implements Vm {
  readonly record: VmRecord;
  readonly capabilities: Capabilities;
  readonly agentSocket: string;
  readonly agentPort = null;
  readonly exited: Promise<VmExit>;
  /** Branches of this VM are built on the stack that it was started from, because its own pages are known. */
  readonly builtOn = [];
  readonly #pager: Pager;
  readonly #watches: Map<string, RunStateWatch>;
  readonly #wires: Wires | undefined;
  readonly #disk: VmDisk | null;
  /** Lets a VM that its disk has stopped run again. Set while the VM is paused. */
  #release: (() => void) | undefined;
  onStall: OnStall | null = null;
  /** Why the VM was ended by us, where it stopped for good. */
  #lost: VmFault | null = null;
  #killed: Promise<void> | undefined;

  constructor(
    record: VmRecord,
    { pager, capabilities, watches, wires }: VmParts,
    exited: Promise<VmExit>,
    disk: VmDisk | null,
  ) {
    this.record = record;
    this.#disk = disk;
    this.capabilities = capabilities;
    this.agentSocket = join(record.dir, FILES.agent);
    this.#watches = watches;
    this.#wires = wires;
    this.exited = exited.then((exit) => {
      this.#unwatch();
      return this.#lost === null ? exit : { ...exit, why: this.#lost };
    });
    this.#pager = pager;
  }

  /** Ends the VM when it stops for good, from now on. It runs, unless it is `paused`. */
  watch(paused = false): void {
    this.#unwatch();
    const onLost = (why: VmFault): void => {
      this.#lost = why;
      // If the kernel refuses to end the VM, requests to it fail, and say so.
      killProcess(this.record).catch(() => undefined);
    };
    const onStall = this.#disk === null ? undefined : (stall: Stall | null) => this.onStall?.(stall);
    const watch = new RunStateWatch(join(this.record.dir, FILES.monitor), onLost, onStall);
    this.#watches.set(this.record.id, watch);
    if (paused) this.#release = watch.hold();
  }

  /** Calls {@link QemuVm.watch} once the caller has the VM. */
  watchSoon(): void {
    let isOver = false;
    this.exited.then(() => (isOver = true)).catch(() => undefined);
    setImmediate(() => {
      if (!isOver) this.watch();
    });
  }

  get #watch(): RunStateWatch | undefined {
    return this.#watches.get(this.record.id);
  }

  get stall(): Stall | null {
    return this.#watch?.stall ?? null;
  }

  #unwatch(): void {
    this.#watches.get(this.record.id)?.close();
    this.#watches.delete(this.record.id);
  }

  async pause(signal?: AbortSignal): Promise<void> {
    const release = await this.#hold();
    try {
      await this.#pager.pause(this.record.id, signal);
    } catch (error) {
      release();
      throw error;
    }
    this.#release?.();
    this.#release = release;
  }

  async resume(signal?: AbortSignal): Promise<void> {
    await this.#pager.resume(this.record.id, signal);
    this.#release?.();
    this.#watch?.retry();
  }

  async branch(
    { mode, resume, audit = false, measureDiff = false }: VmBranch,
    options: VmBranchOptions = {},
  ): Promise<VmBranchDone> {
    const branch = { sandbox: this.record.id, mode, resume, audit, measure_diff: measureDiff };
    if (this.#disk === null) return this.#pager.branch(branch, options);
    // A VM that its disk has stopped would otherwise be told to run in the middle of the pause.
    const release = await this.#hold();
    try {
      if (this.#watch?.isStopped === true) throw waitsForDisk(this.record.id, this.stall);
      return await branchWithDisk(this.#pager, this.#disk, branch, {
        ...options,
        onEvent: (event) => {
          release();
          options.onEvent?.(event);
        },
      });
    } catch (error) {
      // The disk may have stopped the VM between that look and the pause.
      const hasNotRun = error instanceof EngineError && error.code === 'busy';
      throw hasNotRun ? waitsForDisk(this.record.id, this.stall) : error;
    } finally {
      release();
    }
  }

  async reopenDisk(): Promise<void> {
    await this.#disk?.reopen(this.record.pid);
    this.#watch?.retry();
  }

  async diskUse(): Promise<DiskUse | null> {
    return this.#disk === null ? null : this.#disk.use();
  }

  /** Resolves when the VM is not told to run any more after its disk has stopped it, until the returned function is called. */
  async #hold(): Promise<() => void> {
    const watch = this.#watch;
    if (watch === undefined) return () => undefined;
    const release = watch.hold();
    await watch.untilHeld();
    return release;
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
    const { id, dir, networkKey } = this.record;
    const stuck = await endProcess(this.record, this.exited).catch((error: unknown) => error);
    const rest = this.exited.then(() => removeMemoryLimit(dir));
    if (stuck !== undefined) rest.catch(() => undefined);
    else await rest;
    // A pager that has gone holds nothing that would need to be released, and one that stands still is not waited for.
    await this.#pager.release(id).catch(() => undefined);
    await this.#disk?.close().catch(() => undefined);
    if (networkKey !== undefined) await this.#wires?.release(networkKey);
    const sockets = [FILES.monitor, FILES.pagerMonitor, FILES.chardev, FILES.agent];
    await Promise.all(sockets.map((name) => rm(join(dir, name), { force: true })));
    if (stuck !== undefined) throw stuck;
  }
}

function waitsForDisk(id: string, stall: Stall | null): EngineError {
  if (stall === 'no_space') {
    return new EngineError('disk_full', `The VM ${id} waits for space on the host for its disk.`, {
      hint: 'Free space on the host: the VM then continues by itself.',
    });
  }
  return new EngineError('disk_server_gone', `The VM ${id} waits for the server of its disk.`);
}
