import type { Machine, Processor } from '@forkd/api';
import type { limits } from '@forkd/api/constants';
import type { DiskAudit, DiskUse } from './disk/wire.ts';
import type { Bind, Inherited, Policy } from './net/wire.ts';
import type { Pager } from './pager/client.ts';
import type { Blob, BranchDone, BranchEvent, BranchMode, MemoryUse, Refresh, WindowKind } from './pager/wire.ts';
import type { OnStall, Stall } from './qemu/run-state.ts';

export type { Machine, Processor, WindowKind };

/** How a guest's instructions are run. */
export type Accelerator = Machine['accelerator'];

/** The VMM of an engine. */
export type EngineName = Machine['engine'];

/** Something that not every engine can do on every host. */
export type Capability =
  | 'full'
  | 'diff'
  | 'live'
  | 'pause'
  | 'memory_limit'
  | 'network'
  | 'pool'
  | 'floor'
  | 'window_inside'
  | 'disk';

/** Maps each capability to `true`, or to the reason why it is unavailable here, as a sentence for people. */
export type Capabilities = Readonly<Record<Capability, true | string>>;

/**
 * The processor model that a guest is booted with: `host` has all that the host offers, and its snapshots go to hosts with the
 * same processor; those of `x86-64-v2` go to every host with a processor of the same vendor that has that level.
 */
export type CpuModel = (typeof limits.cpuModels)[number];

/** A kernel and what it needs to start. */
export interface KernelFiles {
  vmlinuz: string;
  initramfs: string;
}

/** Properties of a VMM that are fixed at its start, whatever it restores. */
export interface Shape {
  machine: Machine;
  /** The read-only erofs image that all sandboxes of a template share. */
  rootImage: string;
}

/** A VM that a VMM can load before anybody asks for it. */
export interface Loadable {
  /** The fields are those of {@link RestoreSpec}. Bottom layer first. */
  stack: readonly string[];
  deviceState: string;
  refresh: readonly Refresh[];
}

/** The network process, as an engine uses it. */
export interface Wires {
  /** The socket where the jail hands over the wire of a VM. Starts the network process if necessary. */
  open(): Promise<string>;
  bind(bind: Bind): Promise<void>;
  /** Ends the wire of a VM that is gone. Never rejects. */
  release(key: string): Promise<void>;
}

/** The network of a VM that has a network device. */
export interface VmNetwork {
  policy: Policy;
  /** Names and connections of the VM whose state it continues. */
  inherited: Inherited | null;
}

/** Fields that `boot` and `restore` share. */
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
  /** Required if the VM has a network device. A boot with it gives the VM one. */
  network?: VmNetwork | undefined;
  /** How long the VMM may take until the VM runs. Default 30,000 ms. */
  timeoutMs?: number;
}

export interface BootSpec extends VmSpec {
  memMib: number;
  vcpus: number;
  kernel: KernelFiles;
  /** Default `host`. An emulated guest has `x86-64-v2` either way. */
  cpuModel?: CpuModel;
  /** A disk to which the guest writes. Refused with `unsupported` where {@link Engine.capabilities} say why. */
  disk?: { gib: number; layers: readonly string[] };
}

export interface RestoreSpec extends VmSpec {
  /** The machine in the snapshot's manifest. Check it with {@link Engine.checkMachine} first. */
  machine: Machine;
  /** Bottom layer first: `sha256:…`, or `ram:…` for one that is not durable yet. */
  stack: readonly string[];
  /** The layers of its disk, if the machine has one. Bottom layer first: `sha256:…`, or `disk:…` for one that is not durable yet. */
  disk?: readonly string[];
  /** The file that holds the device state. */
  deviceState: string;
  /** Changes in guest memory before the first instruction. */
  refresh?: readonly Refresh[];
  /**
   * How much memory of its own the VMM may have: the pages that the VM writes, and what the VMM needs beside them. One that
   * uses more is ended. Refused with `unsupported` where {@link Engine.capabilities} say why.
   */
  memoryLimitMib?: number;
}

/** A measure that confines the process of a VMM. */
export interface Isolation {
  /** Name of the measure, such as `own_user`. */
  id: string;
  ok: boolean;
  /** Effect of the measure, or why it is unavailable here, as a sentence for people. */
  detail: string;
}

/** The record of a running VM, by which another process can find it again. */
export interface VmRecord {
  id: string;
  dir: string;
  pid: number;
  /** The process' start in clock ticks since boot (field 22 of `/proc/PID/stat`): a pid alone may have been given again. */
  startTicks: number;
  machine: Machine;
  /** The stack that the VM was started with. A pager that was restarted needs it. */
  stack: readonly string[];
  /** The name of its disk at the disk server, if it has one. */
  diskKey?: string;
  /** The name of its network wire. Absent if it has no network device. */
  networkKey?: string;
}

/** How to branch a VM. */
export interface VmBranch {
  mode: BranchMode;
  /** Whether the VM runs on after the pause. One that is paused stays so. */
  resume: boolean;
  /**
   * Compares every page of the branch with memory as it was in the pause, and every block of its disk, if it has one, with the
   * disk as it was. The pause lasts as long as it takes to read all of both. A page or block that differs fails the branch.
   */
  audit?: boolean;
  /** True: a `full` branch also measures, first and in the same pause, what `diff` would have cost. */
  measureDiff?: boolean;
}

/** A stage that a branch of a VM has reached. A VM with a disk has its layers in it, too. */
export type VmBranchEvent =
  | Extract<BranchEvent, { stage: 'resumed' }>
  | (Extract<BranchEvent, { stage: 'ready' }> & { disk?: readonly string[]; diskAudit?: DiskAudit | null });

/** The outcome of a branch that is durable. */
export interface VmBranchDone extends BranchDone {
  /** The layers of the disk, bottom first. Absent for a VM without one. */
  disk?: readonly Blob[];
  /** The comparison of the disk with what it held in the pause. `null` or absent if none was asked for. */
  diskAudit?: DiskAudit | null;
}

export interface VmBranchOptions {
  /** Cancels the branch. The source keeps running. */
  signal?: AbortSignal;
  /** Called at each stage that the branch reaches, in order. */
  onEvent?: (event: VmBranchEvent) => void;
}

/** The cost of a pause that only saves the device state. */
export interface PauseFloor {
  pause_us: number;
  device_state_us: number;
}

/** A VM that runs. */
export interface Vm {
  readonly record: VmRecord;
  /** The capabilities of this VM, which may be fewer than those of its engine. Any other request is refused with `unsupported`. */
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
  /** Resumes the VM. A VM that is running stays so. */
  resume(signal?: AbortSignal): Promise<void>;
  /** Takes a snapshot, and resolves when that is durable. */
  branch(branch: VmBranch, options?: VmBranchOptions): Promise<VmBranchDone>;
  floor(): Promise<PauseFloor>;
  memory(): Promise<MemoryUse>;
  /** Asks a disk server that was started since for the VM's disk. Throws `vm_gone` if the disk is lost. */
  reopenDisk(): Promise<void>;
  /** The bytes on the VM's disk. `null` for a VM without one. */
  diskUse(): Promise<DiskUse | null>;
  /** The reason for which the disk has stopped the VM; `null` while it runs. */
  readonly stall: Stall | null;
  /** Called from now on when {@link stall} changes. */
  onStall: OnStall | null;
  /** Ends the VMM and waits for its end; releases it in the pager; removes its sockets. Idempotent. */
  kill(): Promise<void>;
}

/** The fault that ended a VM although its VMM ran. */
export interface VmFault {
  kind: 'memory_limit' | 'processor' | 'panic' | 'disk' | 'pager';
  /** The rest of a sentence. */
  text: string;
}

export interface VmExit {
  code: number | null;
  signal: string | null;
  /** The cause of the end, if it is known and was not the VMM itself. */
  why: VmFault | null;
  /** The end of what the VMM wrote to its log. */
  log: string;
}

export interface Engine {
  readonly name: EngineName;
  readonly version: string;
  readonly accelerator: Accelerator;
  /** Why this accelerator was chosen, as one sentence for people. */
  readonly acceleratorReason: string;
  /** The isolation measures, and whether each is in force on this host. */
  readonly isolation: readonly Isolation[];
  /** Capabilities of the engine. Any other request is refused with `unsupported` and the reason, before anything is touched. */
  readonly capabilities: Capabilities;
  /** The conductor of the pauses of live branches. A branch may still fall back to the monitor. */
  readonly window: WindowKind;
  machine(memMib: number, vcpus: number): Machine;
  /** Throws `machine_mismatch`, naming what differs, when a snapshot of `machine` cannot be restored here. */
  checkMachine(machine: Machine): void;
  /** Cold boot. Resolves when the VMM runs the VM; the guest agent answers later. */
  boot(spec: BootSpec): Promise<Vm>;
  /** Resolves when the restored VM runs. Takes a VMM that waits, if there is one of this shape, else starts one. */
  restore(spec: RestoreSpec): Promise<Vm>;
  /**
   * Resolves when `count` VMMs of a shape wait, or as many as the pool may hold. All but one of the pool's share have loaded `from`
   * then, where VMMs can load a VM ahead.
   */
  startAhead(shape: Shape, pager: Pager, count: number, from?: Loadable): Promise<void>;
  /** Ends the VMMs that wait. VMs keep running. */
  close(): Promise<void>;
  /** Finds a VM that another process started. `null` when its process is gone. One that is not `paused` runs afterwards. */
  adopt(record: VmRecord, pager: Pager, paused: boolean): Promise<Vm | null>;
}
