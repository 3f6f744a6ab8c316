import type { Pager } from './pager/client.ts';
import type { BranchOptions } from './pager/link.ts';
import type { BranchDone, BranchMode, MemoryUse } from './pager/wire.ts';

/** How a guest's instructions are run. */
export type Accelerator = 'kvm' | 'tcg';

/** What runs the VMs. */
export type EngineName = 'qemu' | 'firecracker';

/** Something that not every engine can do on every host. */
export type Capability = 'full' | 'diff' | 'live' | 'pause' | 'memory_limit' | 'pool' | 'floor';

/** Of each, `true`, or the reason why it cannot be had here, as a sentence for people. */
export type Capabilities = Readonly<Record<Capability, true | string>>;

/**
 * What a snapshot must remember of the machine that it was taken of: a restore under another one is refused,
 * with the fields that differ named.
 */
export interface Machine {
  engine: EngineName;
  /** As the program prints it, such as `7.2.22`. */
  engine_version: string;
  /** QEMU's machine type with its options; of Firecracker, the devices that we give it. */
  machine: string;
  accelerator: Accelerator;
  cpu_model: string;
  mem_mib: number;
  vcpus: number;
}

/** A kernel and what it needs to start. */
export interface KernelFiles {
  vmlinuz: string;
  initramfs: string;
}

/** What a VMM is started with, whatever it restores. */
export interface Shape {
  machine: Machine;
  /** The read-only erofs image that all sandboxes of a template share. */
  rootImage: string;
}

/** What `boot` and `restore` have in common. */
interface VmSpec {
  /** The sandbox's id: the name under which the pager knows it. */
  id: string;
  /** A directory of this VM's own (made if missing; empty if not) for its sockets, logs and nothing else. */
  dir: string;
  /** The read-only erofs image that all sandboxes of a template share. */
  rootImage: string;
  /** Has the layers, and takes the VM's branches from then on. The files named here must stay while the VM lives. */
  pager: Pager;
  signal?: AbortSignal;
  /** How long the VMM may take until the VM runs. Default 30,000 ms. */
  timeoutMs?: number;
}

export interface BootSpec extends VmSpec {
  memMib: number;
  vcpus: number;
  kernel: KernelFiles;
}

export interface RestoreSpec extends VmSpec {
  /** As the snapshot's manifest holds it; checked with {@link Engine.checkMachine} first. */
  machine: Machine;
  /** Bottom layer first: `sha256:…`, or `ram:…` for one that is not durable yet. */
  stack: readonly string[];
  /** The file that holds the device state. */
  deviceState: string;
  /**
   * How much memory of its own the VMM may have: the pages that the VM writes, and what the VMM needs beside them. One that
   * uses more is ended. Refused with `unsupported` where {@link Engine.capabilities} say why.
   */
  memoryLimitMib?: number;
}

/** One thing that a VMM's process can be kept from. */
export interface Isolation {
  /** Such as `own_user`. */
  id: string;
  ok: boolean;
  /** What that means, or why it cannot be had here, as a sentence for people. */
  detail: string;
}

/** What is kept of a running VM so that another process can find it again. */
export interface VmRecord {
  id: string;
  dir: string;
  pid: number;
  /** The process' start in clock ticks since boot (field 22 of `/proc/PID/stat`): a pid alone may have been given again. */
  startTicks: number;
  machine: Machine;
  /** As it was started: needed to announce it to a pager that was restarted. */
  stack: readonly string[];
}

/** What a branch of a VM is to be. */
export interface VmBranch {
  mode: BranchMode;
  /** Whether the VM runs on after the pause. One that is paused stays so. */
  resume: boolean;
  /** Compares all that was captured with memory as it was in the pause, which lasts that much longer. For tests. */
  audit?: boolean;
}

/** What a pause costs that does nothing but save the device state. */
export interface PauseFloor {
  pause_us: number;
  device_state_us: number;
}

/** A VM that runs. */
export interface Vm {
  readonly record: VmRecord;
  /** Of what its engine can do, what is open to this VM. The rest is refused with `unsupported`. */
  readonly capabilities: Capabilities;
  /** The unix socket that the guest agent's client connects to. */
  readonly agentSocket: string;
  /** The vsock port that the client asks for first at that socket; `null` where the socket is the agent's alone. */
  readonly agentPort: number | null;
  /** Settles when the VMM's process has ended, with what is known of why. Never rejects. */
  readonly exited: Promise<VmExit>;
  /** Layers beside those of its record that its next branch is built on: they must stay until that is durable. */
  readonly builtOn: readonly string[];
  /** Stops it until it is resumed. `busy` while a branch of it is under way. */
  pause(signal?: AbortSignal): Promise<void>;
  /** Lets it go on. One that runs already does so. */
  resume(signal?: AbortSignal): Promise<void>;
  /** Takes a snapshot, and resolves when that is durable. */
  branch(branch: VmBranch, options?: BranchOptions): Promise<BranchDone>;
  floor(): Promise<PauseFloor>;
  memory(): Promise<MemoryUse>;
  /** Ends the VMM and waits for its end; releases it in the pager; removes its sockets. Idempotent. */
  kill(): Promise<void>;
}

export interface VmExit {
  code: number | null;
  signal: string | null;
  /** What ended it, as the rest of a sentence, where that is known and was not its own doing. */
  why: string | null;
  /** The end of what the VMM wrote to its log. */
  log: string;
}

export interface Engine {
  readonly name: EngineName;
  readonly version: string;
  readonly accelerator: Accelerator;
  /** Why this accelerator was chosen, as one sentence for people. */
  readonly acceleratorReason: string;
  /** Of each thing that a VMM can be kept from, whether it is on this host. */
  readonly isolation: readonly Isolation[];
  /** What can be asked for. The rest is refused with `unsupported` and the reason, before anything is touched. */
  readonly capabilities: Capabilities;
  machine(memMib: number, vcpus: number): Machine;
  /** Throws `machine_mismatch`, naming what differs, when a snapshot of `machine` cannot be restored here. */
  checkMachine(machine: Machine): void;
  /** Cold boot. Resolves when the VMM runs the VM; the guest agent answers later. */
  boot(spec: BootSpec): Promise<Vm>;
  /** Resolves when the restored VM runs. Takes a VMM that waits, if there is one of this shape, else starts one. */
  restore(spec: RestoreSpec): Promise<Vm>;
  /** Resolves when `count` VMMs of a shape wait, or as many as the pool may hold. */
  fill(shape: Shape, pager: Pager, count: number): Promise<void>;
  /** Ends the VMMs that wait. VMs run on. */
  close(): Promise<void>;
  /** Finds a VM that another process started. `null` when its process is gone. One that is not `paused` runs afterwards. */
  adopt(record: VmRecord, pager: Pager, paused: boolean): Promise<Vm | null>;
}
