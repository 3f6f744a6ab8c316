import { EngineError } from '../errors.ts';
import type { Pager } from '../pager/client.ts';
import type { Accelerator, BootSpec, Engine, KernelFiles, Machine, RestoreSpec, Vm, VmRecord } from '../types.ts';
import { bootArguments, cpuModel, MACHINE, restoreArguments } from './arguments.ts';
import { chooseAccelerator, readVersion } from './probe.ts';
import { adopt, launch } from './vm.ts';

/** The full build; it has every accelerator. */
const PROGRAM = 'qemu-system-x86_64';

export interface QemuOptions {
  /** Where the outcome of the accelerator's trial is kept until the host is booted again. */
  cacheDir: string;
  /** The shim's shared library. */
  shim: string;
  pager: Pager;
  /** A kernel to try KVM with. Without one, KVM is used where the processor offers virtualization. */
  probeKernel?: KernelFiles;
  /** Skips the choice. */
  accelerator?: Accelerator;
  signal?: AbortSignal;
}

/** QEMU's microvm, from the distribution's package, unpatched. */
export class QemuEngine implements Engine {
  readonly name = 'qemu';
  readonly version: string;
  readonly accelerator: Accelerator;
  readonly acceleratorReason: string;
  readonly #shim: string;

  private constructor(version: string, choice: { accelerator: Accelerator; reason: string }, options: QemuOptions) {
    this.version = version;
    this.accelerator = choice.accelerator;
    this.acceleratorReason = choice.reason;
    this.#shim = options.shim;
  }

  /** Finds QEMU and chooses its accelerator. Throws `engine_missing`. */
  static async create(options: QemuOptions): Promise<QemuEngine> {
    const version = await readVersion(PROGRAM, options.signal);
    const choice = options.accelerator
      ? { accelerator: options.accelerator, reason: 'It was asked for.' }
      : await chooseAccelerator({ ...options, program: PROGRAM, version });
    return new QemuEngine(version, choice, options);
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
    const here = this.machine(machine.mem_mib, machine.vcpus);
    const keys = Object.keys(here) as (keyof Machine)[];
    const differing = keys.filter((key) => machine[key] !== here[key]);
    if (differing.length === 0) return;
    const list = differing.map((key) => `${key} is ${here[key]} here and ${machine[key]} there`).join('; ');
    throw new EngineError('machine_mismatch', `The snapshot was taken of another kind of machine: ${list}.`, {
      hint: 'Restore it on a host like the one it was taken on, or make the template anew here.',
    });
  }

  boot(spec: BootSpec): Promise<Vm> {
    const machine = this.machine(spec.memMib, spec.vcpus);
    const args = bootArguments(machine, spec.rootImage, spec.kernel, spec.pager.tscKhz);
    return this.#launch(spec, machine, args, []);
  }

  async restore(spec: RestoreSpec): Promise<Vm> {
    this.checkMachine(spec.machine);
    const args = restoreArguments(spec.machine, spec.rootImage);
    return this.#launch(spec, spec.machine, args, spec.stack, spec.deviceState);
  }

  adopt(record: VmRecord, pager: Pager): Promise<Vm | null> {
    return adopt(record, pager);
  }

  #launch(
    spec: BootSpec | RestoreSpec,
    machine: Machine,
    args: readonly string[],
    stack: readonly string[],
    deviceState?: string,
  ): Promise<Vm> {
    const { id, dir, pager, signal, timeoutMs } = spec;
    const state = deviceState === undefined ? {} : { deviceState };
    return launch({
      id,
      dir,
      pager,
      signal,
      timeoutMs,
      program: PROGRAM,
      args,
      machine,
      stack,
      shim: this.#shim,
      ...state,
    });
  }
}
