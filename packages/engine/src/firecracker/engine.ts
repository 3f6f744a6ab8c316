import { mkdir, readdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { dial } from '../dial.ts';
import { EngineError } from '../errors.ts';
import { compareMachines, refuseMemoryLimit } from '../machine.ts';
import { isolationOfLimits, joinGroup, MemoryLimits, withLimitKill } from '../memory-limit.ts';
import type { Pager } from '../pager/client.ts';
import { isRunning } from '../process.ts';
import { endOfProcess, inTime } from '../supervise.ts';
import type { BootSpec, Capabilities, Engine, Isolation, Machine, RestoreSpec, VmRecord } from '../types.ts';
import { firecrackerCapabilities } from './capabilities.ts';
import type { Features } from './features.ts';
import { ensureElfKernel } from './kernel.ts';
import { isolationOf } from './isolation.ts';
import { capabilitiesOfVm, announcement, isLive, withoutLive } from './live.ts';
import type { Jailer } from './jailer.ts';
import { MemoryFiles } from './memory-files.ts';
import { MemorySources, type VmMemory } from './memory.ts';
import { PageWatch } from './pages.ts';
import { Place } from './place.ts';
import { findProgram, type Trial, tryOut } from './probe.ts';
import { FILES, type Started, startProcess } from './process.ts';
import { FirecrackerVm } from './vm.ts';

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
  readonly features: Features;
  readonly #program: string;
  /** `null` where VMMs are started without. */
  readonly #jailer: Jailer | null;
  readonly #dir: string;
  readonly #memory: MemorySources;
  readonly #memoryLimits: MemoryLimits;

  private constructor(parts: Parts, dir: string) {
    const { program, trial, memory, memoryLimits } = parts;
    const { features } = trial;
    this.version = features.version;
    this.features = features;
    this.isolation = [...isolationOf(trial), isolationOfLimits(memoryLimits)];
    this.capabilities = firecrackerCapabilities({
      features,
      limitUnavailable: memoryLimits.unavailable,
      jailed: trial.jailer !== null,
    });
    this.#program = program;
    this.#jailer = trial.jailer;
    this.#dir = dir;
    this.#memory = memory;
    this.#memoryLimits = memoryLimits;
  }

  /** Finds Firecracker on PATH and asks it what it can do. Throws `engine_missing`. */
  static async create({ dir, signal }: FirecrackerOptions): Promise<FirecrackerEngine> {
    const program = await findProgram(PROGRAM);
    if (program === null) {
      throw new EngineError('engine_missing', `There is no ${PROGRAM} on PATH.`, {
        hint: 'Install it from https://github.com/firecracker-microvm/firecracker/releases',
      });
    }
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const trial = await tryOut(program, dir, signal);
    const memory = new MemorySources(await MemoryFiles.open(join(dir, 'memory')));
    return new FirecrackerEngine({ program, trial, memory, memoryLimits: await MemoryLimits.probe() }, dir);
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
    };
  }

  checkMachine(machine: Machine): void {
    compareMachines(this.machine(machine.mem_mib, machine.vcpus), machine);
  }

  async boot(spec: BootSpec): Promise<FirecrackerVm> {
    const machine = this.machine(spec.memMib, spec.vcpus);
    const kernel = await ensureElfKernel(resolve(spec.kernel.vmlinuz), this.#dir, spec.signal);
    return this.#launch(spec, { machine, stack: [] }, async ({ api, place, record, capabilities }, signal) => {
      await api.setMachineConfig(
        { vcpu_count: machine.vcpus, mem_size_mib: machine.mem_mib, track_dirty_pages: true },
        signal,
      );
      const [kernel_image_path, initrd_path] = await Promise.all([
        place.lend(kernel, 'kernel'),
        place.lend(spec.kernel.initramfs, 'initramfs'),
      ]);
      await api.setBootSource({ kernel_image_path, initrd_path, boot_args: KERNEL_COMMAND_LINE }, signal);
      const drive = { drive_id: 'root', path_on_host: FILES.root, is_root_device: false, is_read_only: true };
      await api.addDrive(drive, signal);
      await api.setVsock({ guest_cid: GUEST_CID, uds_path: FILES.agent }, signal);
      await api.addEntropy(signal);
      await api.start(signal);
      // Its sockets are all there only now, and what runs yet is the kernel that we gave it.
      await place.seal();
      if (capabilities.live === true) await spec.pager.adopt(announcement(record), false);
    });
  }

  async restore(spec: RestoreSpec): Promise<FirecrackerVm> {
    this.checkMachine(spec.machine);
    refuseMemoryLimit(spec, this.capabilities);
    const { machine, stack, memoryLimitMib } = spec;
    const live = capabilitiesOfVm(this.capabilities, spec.pager, memoryLimitMib).live === true;
    const memory = await this.#memory.acquire(spec, live);
    try {
      const start: Start = async ({ api, place, record }, signal) => {
        const snapshotPath = await place.lend(spec.deviceState, 'state');
        const backend = await memory.backend(record.pid, place, signal);
        await api.loadSnapshot(
          { snapshotPath, memory: backend, trackDirtyPages: true, resume: false },
          this.features,
          signal,
        );
        await place.seal();
        if (live) await spec.pager.open(record.id);
        else await api.resume(signal);
      };
      return await this.#launch(spec, { machine, stack, memoryLimitMib, memory }, start);
    } catch (error) {
      await memory.release();
      throw error;
    }
  }

  /** Nothing waits: see {@link capabilities}. */
  async fill(): Promise<void> {}

  async close(): Promise<void> {}

  async adopt(record: VmRecord, pager: Pager, paused: boolean): Promise<FirecrackerVm | null> {
    const place = await Place.find(record.dir);
    const pages = new PageWatch(record, pager);
    if (!(await isRunning(record)) || !(await pages.isServed())) {
      await place.remove();
      return null;
    }
    this.#jailer?.keep(place);
    // Whoever started it may have been killed before that.
    await place.seal();
    const ended = endOfProcess(record, join(record.dir, FILES.log));
    const exited = pages.explain(withLimitKill(ended, () => record.dir));
    void pages.keep();
    const can = this.capabilities;
    const live = can.live === true && (await isLive(record));
    const capabilities = live || can.live !== true ? can : { ...can, ...withoutLive(NOT_LENT) };
    const vm = new FirecrackerVm(record, exited, this.#home(pager, place, capabilities), null);
    await removeSnapshots(place.root);
    if (live) {
      await pager.adopt(announcement(record), paused);
      return vm;
    }
    const { state } = await vm.api.instance();
    if (paused && state === 'Running') await vm.api.pause();
    if (!paused && state === 'Paused') await vm.api.resume();
    return vm;
  }

  #home(pager: Pager, place: Place, capabilities: Capabilities, onKilled?: () => Promise<void>) {
    const release = async (): Promise<void> => {
      this.#jailer?.release(place);
      await onKilled?.();
    };
    return { pager, place, capabilities, onKilled: release };
  }

  /** Makes a VM's directory and what it shows of the host, and starts the VM's process there. */
  async #start({ id, dir, rootImage }: BootSpec | RestoreSpec): Promise<{ place: Place; started: Started }> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const jailer = this.#jailer;
    const place = jailer ? await jailer.place(dir, id) : Place.plain(dir);
    try {
      await place.lendAs(rootImage, FILES.root);
      return { place, started: await startProcess(this.#program, id, dir, jailer ? { jailer, place } : undefined) };
    } catch (error) {
      await place.remove();
      jailer?.release(place);
      throw error;
    }
  }

  /** Starts a process and gives it its VM with `start`. What was begun is undone when that fails. */
  async #launch(spec: BootSpec | RestoreSpec, what: What, start: Start): Promise<FirecrackerVm> {
    const { id, dir, pager, signal, timeoutMs } = spec;
    const { machine, stack, memoryLimitMib } = what;
    signal?.throwIfAborted();
    const { place, started } = await this.#start(spec);
    const { pid, startTicks, exited: ended } = started;
    const record = { id, dir, pid, startTicks, machine, stack };
    const pages = new PageWatch(record, pager);
    const exited = pages.explain(withLimitKill(ended, () => dir));
    // What is counted of a boot is the boot itself: its first branch takes all.
    const counted = stack.length === 0 ? null : stack;
    const capabilities = capabilitiesOfVm(this.capabilities, pager, memoryLimitMib);
    const home = this.#home(pager, place, capabilities, what.memory?.release);
    const vm = new FirecrackerVm(record, exited, home, counted);
    try {
      // Before it has any memory of its own.
      if (memoryLimitMib !== undefined) await joinGroup(await this.#memoryLimits.create(dir, memoryLimitMib), pid);
      await inTime({ id, exited, log: join(dir, FILES.log), signal, timeoutMs }, async (inStart) => {
        (await dial(vm.api.socket, inStart)).destroy();
        await start(vm, inStart);
      });
    } catch (error) {
      await vm.kill();
      throw error;
    }
    void pages.keep();
    return vm;
  }
}

interface Parts {
  program: string;
  trial: Trial;
  memory: MemorySources;
  memoryLimits: MemoryLimits;
}

interface What {
  machine: Machine;
  stack: readonly string[];
  memoryLimitMib?: number | undefined;
  memory?: VmMemory;
}

/** Gives a process its VM, and seals its place. */
type Start = (vm: FirecrackerVm, signal: AbortSignal) => Promise<void>;

/** What a controller that ended left half-made. */
async function removeSnapshots(dir: string): Promise<void> {
  const names = (await readdir(dir)).filter((name) => name.startsWith('snapshot-'));
  for (const name of names) await rm(join(dir, name), { recursive: true, force: true });
}
