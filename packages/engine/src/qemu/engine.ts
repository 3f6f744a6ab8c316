import { compareMachines, refuseMemoryLimit } from '../machine.ts';
import { isolationOfLimits, MemoryLimits } from '../memory-limit.ts';
import type { Pager } from '../pager/client.ts';
import type {
  Accelerator,
  BootSpec,
  Capabilities,
  CpuModel,
  Engine,
  Isolation,
  KernelFiles,
  Loadable,
  Machine,
  Processor,
  RestoreSpec,
  Shape,
  Vm,
  VmRecord,
  WindowKind,
  Wires,
} from '../types.ts';
import { BASELINE_MODEL, bootArguments, bootFiles, EMULATED_MODEL, MACHINE, restoreArguments } from './arguments.ts';
import { NETWORK_UNAVAILABLE, qemuCapabilities } from './capabilities.ts';
import type { FindDiskServer } from './disk.ts';
import type { Idle } from './idle.ts';
import { Jail } from './jail.ts';
import { type PoolOptions, VmmPool } from './pool.ts';
import { type Acceleration, chooseAcceleration, PROGRAM, readVersion, requireKvm } from './probe.ts';
import { readProcessors } from './processor.ts';
import type { RunStateWatch } from './run-state.ts';
import { adopt, launch, type Launch, type Wake, wake } from './vm.ts';
import { TRIAL_MEM_MIB, whyNoInsideWindow, type WindowTrial } from './window.ts';

export interface QemuOptions {
  /** A directory where it is noted, until the host is booted again, that KVM runs a kernel. */
  cacheDir: string;
  /** The shim's shared library. */
  shim: string;
  /** The program that starts VMMs. */
  jail: string;
  pager: Pager;
  /** A kernel to try KVM with. Without one, KVM is used where the processor offers virtualization. */
  probeKernel?: KernelFiles;
  /** Skips the choice. */
  accelerator?: Accelerator;
  /** How to prove that pauses can be conducted inside QEMU. Without it, the monitor conducts them. */
  windowTrial?: WindowTrial;
  /** Finds the disk server. Without it, VMs have no disks. */
  findDiskServer?: FindDiskServer;
  /** The network process. Without it, no guest has a network. */
  wires?: Wires;
  /** VMMs that wait for a restore. Without it, each restore starts its own. */
  pool?: PoolOptions;
  signal?: AbortSignal;
}

/** QEMU's microvm, from the distribution's package, unpatched. */
export class QemuEngine implements Engine {
  readonly name = 'qemu';
  readonly version: string;
  readonly accelerator: Accelerator;
  readonly acceleratorReason: string;
  readonly isolation: readonly Isolation[];
  readonly capabilities: Capabilities;
  readonly window: WindowKind;
  readonly #guests: Guests;
  readonly #vmm: VmmParts;
  readonly #pool: VmmPool | undefined;

  private constructor(guests: Guests, vmm: VmmParts, insideUnavailable: string | null, options: QemuOptions) {
    const { jail, memoryLimits, wires } = vmm;
    this.version = guests.version;
    this.accelerator = guests.acceleration.accelerator;
    this.acceleratorReason = guests.acceleration.reason;
    this.#guests = guests;
    this.#vmm = vmm;
    const { pool } = options;
    const pooled = pool !== undefined && pool.sizeMax > 0;
    this.capabilities = qemuCapabilities({
      liveUnavailable: options.pager.liveUnavailable,
      limitUnavailable: memoryLimits.unavailable,
      networkUnavailable: wires === undefined ? NETWORK_UNAVAILABLE : null,
      pooled,
      insideUnavailable,
      disks: options.findDiskServer !== undefined,
    });
    this.isolation = [...jail.isolation, isolationOfLimits(memoryLimits)];
    this.window = insideUnavailable === null ? 'inside' : 'monitor';
    if (pooled) this.#pool = new VmmPool({ ...pool, ...vmm, window: this.window });
  }

  /** Finds QEMU and chooses its accelerator. Throws `engine_missing`. */
  static async create(options: QemuOptions): Promise<QemuEngine> {
    const { pager, shim, cacheDir, windowTrial: trial, findDiskServer, wires, signal } = options;
    const version = await readVersion(PROGRAM, signal);
    const acceleration = await accelerate(options, version);
    const models = acceleration.accelerator === 'kvm' ? [acceleration.cpuModel, BASELINE_MODEL] : [];
    const [processors, jail, memoryLimits] = await Promise.all([
      models.length > 0 ? readProcessors(PROGRAM, models, signal) : new Map<string, Processor>(),
      Jail.open(options.jail, PROGRAM, cacheDir, signal),
      MemoryLimits.probe(),
    ]);
    const guests = { version, acceleration, processors };
    const vmm = {
      program: PROGRAM,
      shim,
      jail,
      memoryLimits,
      watches: new Map<string, RunStateWatch>(),
      findDiskServer,
      wires,
    };
    const machine = machineOf(guests, { mem_mib: TRIAL_MEM_MIB, vcpus: 1 }, acceleration.cpuModel);
    const insideUnavailable = await whyNoInsideWindow({
      version,
      cacheDir,
      trial,
      vmm: { ...vmm, machine, pager, signal },
    });
    return new QemuEngine(guests, vmm, insideUnavailable, options);
  }

  machine(
    memMib: number,
    vcpus: number,
    cpuModel: CpuModel = 'host',
    more: { diskGib?: number | undefined; network?: boolean } = {},
  ): Machine {
    const travels = cpuModel === 'x86-64-v2' && this.accelerator === 'kvm';
    const model = travels ? BASELINE_MODEL : this.#guests.acceleration.cpuModel;
    const { diskGib, network = false } = more;
    const devices = { ...(diskGib !== undefined && { disk_gib: diskGib }), ...(network && { network }) };
    return machineOf(this.#guests, { mem_mib: memMib, vcpus, ...devices }, model);
  }

  checkMachine(machine: Machine): void {
    const model = machine.cpu_model === BASELINE_MODEL ? BASELINE_MODEL : this.#guests.acceleration.cpuModel;
    compareMachines(machineOf(this.#guests, machine, model), machine);
  }

  boot(spec: BootSpec): Promise<Vm> {
    const { disk, network, memMib, vcpus, cpuModel } = spec;
    const machine = this.machine(memMib, vcpus, cpuModel, { diskGib: disk?.gib, network: network !== undefined });
    const args = bootArguments(machine, spec.pager.tscKhz);
    const files = bootFiles(spec.kernel);
    return this.#yield(() =>
      launch({ ...this.#common(spec, machine), args, files, stack: [], diskLayers: disk?.layers }),
    );
  }

  async restore(spec: RestoreSpec): Promise<Vm> {
    this.checkMachine(spec.machine);
    const { machine, rootImage, pager, stack, deviceState, refresh, memoryLimitMib } = spec;
    refuseMemoryLimit(spec, this.capabilities);
    const memory = { stack, deviceState, refresh, memoryLimitMib };
    const options = { ...this.#common(spec, machine), ...memory, diskLayers: spec.disk };
    return this.#yield(async () => {
      const from = { stack, deviceState, refresh: refresh ?? [] };
      const idle = await this.#pool?.takeSoon({ machine, rootImage }, pager, from);
      const woken = idle && (await this.#wake(idle, options));
      return woken ?? launch({ ...options, args: restoreArguments(machine) });
    });
  }

  async startAhead(shape: Shape, pager: Pager, count: number, from?: Loadable): Promise<void> {
    await this.#pool?.fill(shape, pager, count, from);
  }

  async close(): Promise<void> {
    for (const watch of this.#vmm.watches.values()) watch.close();
    await this.#pool?.close();
  }

  adopt(record: VmRecord, pager: Pager, paused: boolean): Promise<Vm | null> {
    return adopt(record, { pager, capabilities: this.capabilities, ...this.#vmm }, paused);
  }

  /** `undefined` when the VMM was lost: another is started for this VM, which tells what is wrong if anything is. */
  async #wake(idle: Idle, options: Wake): Promise<Vm | undefined> {
    try {
      return await wake(idle, options);
    } catch {
      options.signal?.throwIfAborted();
      return undefined;
    }
  }

  #yield(start: () => Promise<Vm>): Promise<Vm> {
    return this.#pool ? this.#pool.yieldTo(start) : start();
  }

  #common(spec: BootSpec | RestoreSpec, machine: Machine) {
    const { id, dir, rootImage, pager, network, signal, timeoutMs } = spec;
    const { window, capabilities } = this;
    return { id, dir, rootImage, pager, network, signal, timeoutMs, machine, window, capabilities, ...this.#vmm };
  }
}

/** The parts of a machine that its template was built with. */
type Sizes = Pick<Machine, 'mem_mib' | 'vcpus' | 'disk_gib' | 'network'>;

/** The QEMU of the host, its accelerator, and the processors of guests. */
interface Guests {
  version: string;
  acceleration: Acceleration;
  /** Processors of guests, by the name of the model. Empty under emulation. */
  processors: ReadonlyMap<string, Processor>;
}

/** The parts that all VMs of an engine are started with. */
type VmmParts = Pick<Launch, 'program' | 'shim' | 'jail' | 'memoryLimits' | 'findDiskServer' | 'wires'> & {
  watches: Map<string, RunStateWatch>;
};

function machineOf(guests: Guests, { mem_mib, vcpus, disk_gib, network }: Sizes, cpuModel: string): Machine {
  const { version, acceleration, processors } = guests;
  const processor = processors.get(cpuModel);
  return {
    engine: 'qemu',
    engine_version: version,
    machine: MACHINE,
    accelerator: acceleration.accelerator,
    cpu_model: cpuModel,
    mem_mib,
    vcpus,
    ...(disk_gib !== undefined && { disk_gib }),
    ...(processor && { processor }),
    ...(network === true && { network }),
  };
}

function accelerate(options: QemuOptions, version: string): Acceleration | Promise<Acceleration> {
  if (options.accelerator === 'kvm') return requireKvm(PROGRAM, options.signal);
  if (options.accelerator === 'tcg') {
    return { accelerator: 'tcg', cpuModel: EMULATED_MODEL, reason: 'It was asked for.' };
  }
  return chooseAcceleration({ ...options, program: PROGRAM, version });
}
