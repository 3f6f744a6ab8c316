import { mkdir, readdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { dial } from '../dial.ts';
import { EngineError } from '../errors.ts';
import { findProgram } from '../files.ts';
import { compareMachines, refuseMemoryLimit } from '../machine.ts';
import { isolationOfLimits, joinGroup, MemoryLimits, withLimitKill } from '../memory-limit.ts';
import type { Pager } from '../pager/client.ts';
import { isRunning } from '../process.ts';
import { readHostProcessor } from '../processor.ts';
import { endOfProcess, explain, inTime } from '../supervise.ts';
import type { BootSpec, Capabilities, Engine, Isolation, Machine, Processor, RestoreSpec, VmRecord } from '../types.ts';
import { firecrackerCapabilities } from './capabilities.ts';
import type { Features } from './features.ts';
import { isolationOf } from './isolation.ts';
import type { Jailer } from './jailer.ts';
import { ensureElfKernel } from './kernel.ts';
import { announcement, capabilitiesOfVm, isAttached, isLive, withoutLive } from './live.ts';
import { MemoryFiles } from './memory-files.ts';
import { MemorySources, type VmMemory } from './memory.ts';
import { PageWatch } from './pages.ts';
import { type Trial, tryOut } from './probe.ts';
import { FILES, type Started, startProcess } from './process.ts';
import { VmRoot } from './vm-root.ts';
import { FirecrackerVm, type VmParts } from './vm.ts';

const PROGRAM = 'firecracker';

/** The devices, in order: part of a snapshot. */
const MACHINE = 'virtio-mmio,block,vsock,entropy';

/** The guest's address on its own vsock, which nobody else sees. */
const GUEST_CID = 3;

/** The first drive is `/dev/vda`; a reboot or a panic ends the VMM. */
const KERNEL_COMMAND_LINE = 'console=ttyS0 quiet reboot=k panic=-1 pci=off forkd.root=/dev/vda';

const NOT_LENT = 'The VM was started without memory that it shares with the pager.';

export interface FirecrackerOptions {
  /** A directory of the engine's own, for unpacked kernels and the memory of snapshots. */
  dir: string;
  signal?: AbortSignal;
}

/** Firecracker, as its project publishes it; the user installs it. */
export class FirecrackerEngine implements Engine {
  readonly name = 'firecracker';
  readonly version: string;
  readonly accelerator = 'kvm';
  readonly acceleratorReason = 'Firecracker has no other.';
  readonly isolation: readonly Isolation[];
  readonly capabilities: Capabilities;
  readonly window = 'monitor';
  readonly features: Features;
  readonly #processor: Processor | undefined;
  readonly #program: string;
  /** `null` where VMMs are started without. */
  readonly #jailer: Jailer | null;
  readonly #dir: string;
  readonly #memory: MemorySources;
  readonly #memoryLimits: MemoryLimits;
  /** The result of asking a running VM for its memory. */
  readonly #handover: true | string;

  private constructor(parts: Parts, dir: string) {
    const { program, trial, memory, memoryLimits } = parts;
    const { features } = trial;
    this.version = features.version;
    this.features = features;
    this.isolation = [...isolationOf(trial), isolationOfLimits(memoryLimits)];
    this.capabilities = firecrackerCapabilities({
      features,
      handover: trial.handover.loaded,
      limitUnavailable: memoryLimits.unavailable,
      jailed: trial.jailer !== null,
    });
    this.#processor = parts.processor;
    this.#program = program;
    this.#jailer = trial.jailer;
    this.#dir = dir;
    this.#memory = memory;
    this.#memoryLimits = memoryLimits;
    this.#handover = trial.handover.running;
  }

  /** Finds Firecracker on PATH and asks it what it can do. Throws `engine_missing`. */
  static async create({ dir, signal }: FirecrackerOptions): Promise<FirecrackerEngine> {
    const program = await findProgram(PROGRAM);
    if (program === null) {
      throw new EngineError('engine_missing', `There is no ${PROGRAM} on PATH.`, {
        hint: 'Install it from https://github.com/firecracker-microvm/firecracker/releases.',
      });
    }
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const trial = await tryOut(program, dir, signal);
    const memory = new MemorySources(await MemoryFiles.open(join(dir, 'memory')));
    const [memoryLimits, processor] = await Promise.all([MemoryLimits.probe(), readHostProcessor()]);
    return new FirecrackerEngine({ program, trial, memory, memoryLimits, processor }, dir);
  }

  machine(memMib: number, vcpus: number): Machine {
    return {
      engine: this.name,
      engine_version: this.version,
      machine: MACHINE,
      accelerator: this.accelerator,
      cpu_model: 'host',
      mem_mib: memMib,
      vcpus,
      ...(this.#processor && { processor: this.#processor }),
    };
  }

  checkMachine(machine: Machine): void {
    compareMachines(this.machine(machine.mem_mib, machine.vcpus), machine);
  }

  async boot(spec: BootSpec): Promise<FirecrackerVm> {
    if (spec.cpuModel === 'x86-64-v2') throw noBaseline(spec.id);
    const machine = this.machine(spec.memMib, spec.vcpus);
    const kernel = await ensureElfKernel(resolve(spec.kernel.vmlinuz), this.#dir, spec.signal);
    const capabilities = this.#capabilitiesOfBooted(spec.pager);
    return this.#launch(spec, { machine, stack: [], capabilities }, async ({ api, vmRoot, record }, signal) => {
      await api.setMachineConfig(
        { vcpu_count: machine.vcpus, mem_size_mib: machine.mem_mib, track_dirty_pages: true },
        signal,
      );
      const [kernel_image_path, initrd_path] = await Promise.all([
        vmRoot.lend(kernel, 'kernel'),
        vmRoot.lend(spec.kernel.initramfs, 'initramfs'),
      ]);
      await api.setBootSource({ kernel_image_path, initrd_path, boot_args: KERNEL_COMMAND_LINE }, signal);
      const drive = { drive_id: 'root', path_on_host: FILES.root, is_root_device: false, is_read_only: true };
      await api.addDrive(drive, signal);
      await api.setVsock({ guest_cid: GUEST_CID, uds_path: FILES.agent }, signal);
      await api.addEntropy(signal);
      await api.start(signal);
      // All sockets exist now, and so far only forkd's own kernel has run.
      await vmRoot.seal();
      if (capabilities.live === true) await spec.pager.adopt(announcement(record), false);
    });
  }

  async restore(spec: RestoreSpec): Promise<FirecrackerVm> {
    this.checkMachine(spec.machine);
    refuseMemoryLimit(spec, this.capabilities);
    const { machine, stack, memoryLimitMib } = spec;
    const capabilities = capabilitiesOfVm(this.capabilities, spec.pager, memoryLimitMib);
    const memory = await this.#memory.acquire(spec, capabilities.live === true);
    try {
      return await this.#launch(spec, { machine, stack, memoryLimitMib, memory, capabilities }, async (vm, signal) => {
        await this.#load(vm, spec, memory, signal);
        await this.#takeMemory(vm, spec.pager, signal);
        if (vm.capabilities.live === true) await spec.pager.open(vm.record.id);
        else await vm.api.resume(signal);
      });
    } catch (error) {
      await memory.release();
      throw error;
    }
  }

  /** The VM is there then, and stands still: it has run no instruction. */
  async #load(vm: FirecrackerVm, spec: RestoreSpec, memory: VmMemory, signal: AbortSignal): Promise<void> {
    const { api, vmRoot, record } = vm;
    const snapshotPath = await vmRoot.lend(spec.deviceState, 'state');
    const backend = await memory.backend(record.pid, vmRoot, signal);
    // The load itself asks for pages, and would wait for ever for a pager that has ended.
    vm.watchPages();
    const load = { snapshotPath, memory: backend, trackDirtyPages: true, resume: false };
    await api.loadSnapshot(load, this.features, signal);
    await memory.refresh(record.pid);
    await vmRoot.seal();
  }

  /**
   * Takes the memory before the VM runs, because every build can hand it over then. A VM that cannot hand it over has no live
   * branches, and lives.
   */
  async #takeMemory(vm: FirecrackerVm, pager: Pager, signal: AbortSignal): Promise<void> {
    if (vm.capabilities.live !== true) return;
    const { id } = vm.record;
    let why: string;
    try {
      const kept = await pager.takeMemory(id, signal);
      if (kept || this.#handover === true) return;
      why = `Its memory can be asked for only before it runs, and launch came cannot be kept. ${this.#handover}`;
    } catch (error) {
      if (!(error instanceof EngineError) || error.code === 'pager_gone' || error.code === 'cancelled') throw error;
      const failure = await explain(error, id, vm.exited);
      if (failure !== error) throw failure;
      why = error.message;
    }
    vm.refuseLive(why);
    await pager.release(id);
  }

  /** A VM runs as soon as it is booted. */
  #capabilitiesOfBooted(pager: Pager): Capabilities {
    const can = capabilitiesOfVm(this.capabilities, pager, undefined);
    if (can.live !== true || this.#handover === true) return can;
    return { ...can, ...withoutLive(`A VM that was booted has none: ${this.#handover}`) };
  }

  /** Nothing waits: see {@link capabilities}. */
  async startAhead(): Promise<void> {}

  async close(): Promise<void> {}

  async adopt(record: VmRecord, pager: Pager, paused: boolean): Promise<FirecrackerVm | null> {
    const vmRoot = await VmRoot.find(record.dir);
    const pages = new PageWatch(record, pager);
    if (!(await isRunning(record)) || !(await pages.isServed())) {
      await vmRoot.remove();
      return null;
    }
    this.#jailer?.keep(vmRoot);
    // The process that started the VM may have been killed before it sealed the root.
    await vmRoot.seal();
    const ended = endOfProcess(record, join(record.dir, FILES.log));
    const exited = pages.explain(withLimitKill(ended, () => record.dir));
    const can = this.capabilities;
    const live = can.live === true && (await isLive(record));
    const capabilities = live || can.live !== true ? can : { ...can, ...withoutLive(NOT_LENT) };
    const vm = new FirecrackerVm(record, exited, this.#parts({ pager, vmRoot, pages, capabilities }), null);
    vm.watchPages();
    await removeSnapshots(vmRoot.root);
    if (live) {
      await pager.adopt(announcement(record), paused);
      if (this.#handover !== true && !(await isAttached(pager, record.id))) {
        vm.refuseLive(`Its memory was with a pager that has ended. ${this.#handover}`);
        await pager.release(record.id);
      }
      return vm;
    }
    const { state } = await vm.api.instance();
    if (paused && state === 'Running') await vm.api.pause();
    if (!paused && state === 'Paused') await vm.api.resume();
    return vm;
  }

  #parts(parts: Omit<VmParts, 'onKilled'>, onKilled?: () => Promise<void>): VmParts {
    const release = async (): Promise<void> => {
      this.#jailer?.release(parts.vmRoot);
      await onKilled?.();
    };
    return { ...parts, onKilled: release };
  }

  /** Makes a VM's directory and what it shows of the host, and starts the VM's process there. */
  async #start({ id, dir, rootImage }: BootSpec | RestoreSpec): Promise<{ vmRoot: VmRoot; started: Started }> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const jailer = this.#jailer;
    const vmRoot = jailer ? await jailer.vmRoot(dir, id) : VmRoot.plain(dir);
    try {
      await vmRoot.lendAs(rootImage, FILES.root);
      return { vmRoot, started: await startProcess(this.#program, id, dir, jailer ? { jailer, vmRoot } : undefined) };
    } catch (error) {
      await vmRoot.remove();
      jailer?.release(vmRoot);
      throw error;
    }
  }

  /** Starts a process and gives it its VM with `start`. What was begun is undone when that fails. */
  async #launch(spec: BootSpec | RestoreSpec, launch: LaunchSpec, start: Start): Promise<FirecrackerVm> {
    const { id, dir, pager, signal, timeoutMs } = spec;
    const { machine, stack, memoryLimitMib } = launch;
    signal?.throwIfAborted();
    const { vmRoot, started } = await this.#start(spec);
    const { pid, startTicks, exited: ended } = started;
    const record = { id, dir, pid, startTicks, machine, stack };
    const pages = new PageWatch(record, pager);
    const exited = pages.explain(withLimitKill(ended, () => dir));
    // A boot writes all memory, so the first branch takes all of it.
    const counted = stack.length === 0 ? null : stack;
    const parts = this.#parts({ pager, vmRoot, pages, capabilities: launch.capabilities }, launch.memory?.release);
    const vm = new FirecrackerVm(record, exited, parts, counted);
    try {
      // The process joins the group before it has any memory.
      if (memoryLimitMib !== undefined) await joinGroup(await this.#memoryLimits.create(dir, memoryLimitMib), pid);
      await inTime({ id, exited, log: join(dir, FILES.log), signal, timeoutMs }, async (inStart) => {
        (await dial(vm.api.socket, inStart)).destroy();
        await start(vm, inStart);
      });
    } catch (error) {
      await vm.kill();
      throw error;
    }
    return vm;
  }
}

interface Parts {
  program: string;
  trial: Trial;
  memory: MemorySources;
  memoryLimits: MemoryLimits;
  processor: Processor | undefined;
}

function noBaseline(id: string): EngineError {
  return new EngineError('unsupported', `The VM ${id} cannot have the processor model x86-64-v2 under Firecracker.`, {
    hint: 'Leave the processor model out, or make the template with QEMU.',
  });
}

interface LaunchSpec {
  machine: Machine;
  stack: readonly string[];
  memoryLimitMib?: number | undefined;
  memory?: VmMemory;
  capabilities: Capabilities;
}

/** Gives a process its VM, and seals its place. */
type Start = (vm: FirecrackerVm, signal: AbortSignal) => Promise<void>;

/** Removes unfinished snapshots of a controller that has ended. */
async function removeSnapshots(dir: string): Promise<void> {
  const names = (await readdir(dir)).filter((name) => name.startsWith('snapshot-'));
  for (const name of names) await rm(join(dir, name), { recursive: true, force: true });
}
