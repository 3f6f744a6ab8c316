import { compareMachines, refuseMemoryLimit } from '../machine.ts';
import type { Pager } from '../pager/client.ts';
import type {
  Accelerator,
  BootSpec,
  Capabilities,
  Engine,
  Isolation,
  KernelFiles,
  Machine,
  RestoreSpec,
  Shape,
  Vm,
  VmRecord,
} from '../types.ts';
import { bootArguments, bootFiles, cpuModel, MACHINE, restoreArguments } from './arguments.ts';
import { qemuCapabilities } from './capabilities.ts';
import { Jail } from './jail.ts';
import { isolationOfLimits, MemoryLimits } from '../memory-limit.ts';
import { chooseAccelerator, readVersion } from './probe.ts';
import { type Idle, type PoolOptions, VmmPool } from './pool.ts';
import { adopt, launch, type Launch, wake } from './vm.ts';

/** The full build; it has every accelerator. */
const PROGRAM = 'qemu-system-x86_64';

export interface QemuOptions {
  /** Where the outcome of the accelerator's trial is kept until the host is booted again. */
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
  readonly #shim: string;
  readonly #jail: Jail;
  readonly #memoryLimits: MemoryLimits;
  readonly #pool: VmmPool | undefined;

  private constructor(parts: Parts, options: QemuOptions) {
    const { version, choice, jail, memoryLimits } = parts;
    this.version = version;
    this.accelerator = choice.accelerator;
    this.acceleratorReason = choice.reason;
    const { pool, shim } = options;
    const pooled = pool !== undefined && pool.sizeMax > 0;
    this.capabilities = qemuCapabilities({
      liveUnavailable: options.pager.liveUnavailable,
      limitUnavailable: memoryLimits.unavailable,
      pooled,
    });
    this.isolation = [...jail.isolation, isolationOfLimits(memoryLimits)];
    this.#shim = options.shim;
    this.#jail = jail;
    this.#memoryLimits = memoryLimits;
    if (pooled) this.#pool = new VmmPool({ ...pool, program: PROGRAM, shim, jail });
  }

  /** Finds QEMU and chooses its accelerator. Throws `engine_missing`. */
  static async create(options: QemuOptions): Promise<QemuEngine> {
    const version = await readVersion(PROGRAM, options.signal);
    const choice = options.accelerator
      ? { accelerator: options.accelerator, reason: 'It was asked for.' }
      : await chooseAccelerator({ ...options, program: PROGRAM, version });
    const [jail, memoryLimits] = await Promise.all([
      Jail.open(options.jail, PROGRAM, options.cacheDir, options.signal),
      MemoryLimits.probe(),
    ]);
    return new QemuEngine({ version, choice, jail, memoryLimits }, options);
  }

  machine(memMib: number, vcpus: number): Machine {
    return {
      engine: 'qemu',
      engine_version: this.version,
      machine: MACHINE,
      accelerator: this.accelerator,
      cpu_model: cpuModel(this.accelerator),
      mem_mib: memMib,
      vcpus,
    };
  }

  checkMachine(machine: Machine): void {
    compareMachines(this.machine(machine.mem_mib, machine.vcpus), machine);
  }

  boot(spec: BootSpec): Promise<Vm> {
    const machine = this.machine(spec.memMib, spec.vcpus);
    const args = bootArguments(machine, spec.pager.tscKhz);
    const files = bootFiles(spec.kernel);
    return this.#yield(() => launch({ ...this.#common(spec, machine), args, files, stack: [] }));
  }

  async restore(spec: RestoreSpec): Promise<Vm> {
    this.checkMachine(spec.machine);
    const { machine, rootImage, pager, stack, deviceState, memoryLimitMib } = spec;
    refuseMemoryLimit(spec, this.capabilities);
    const args = restoreArguments(machine);
    const options = { ...this.#common(spec, machine), args, stack, deviceState, memoryLimitMib };
    return this.#yield(async () => {
      const idle = this.#pool?.take({ machine, rootImage }, pager);
      const woken = idle && (await this.#wake(idle, options));
      return woken ?? launch(options);
    });
  }

  async fill(shape: Shape, pager: Pager, count: number): Promise<void> {
    await this.#pool?.fill(shape, pager, count);
  }

  async close(): Promise<void> {
    await this.#pool?.close();
  }

  adopt(record: VmRecord, pager: Pager, paused: boolean): Promise<Vm | null> {
    return adopt(record, { pager, capabilities: this.capabilities }, paused);
  }

  /** `undefined` when the VMM was lost: another is started for this VM, which tells what is wrong if anything is. */
  async #wake(idle: Idle, options: Launch & { deviceState: string }): Promise<Vm | undefined> {
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

  #common({ id, dir, rootImage, pager, signal, timeoutMs }: BootSpec | RestoreSpec, machine: Machine) {
    const { capabilities } = this;
    const own = {
      program: PROGRAM,
      shim: this.#shim,
      jail: this.#jail,
      memoryLimits: this.#memoryLimits,
      capabilities,
    };
    return { id, dir, rootImage, pager, signal, timeoutMs, machine, ...own };
  }
}

interface Parts {
  version: string;
  choice: { accelerator: Accelerator; reason: string };
  jail: Jail;
  memoryLimits: MemoryLimits;
}
