export { EngineError, type EngineErrorCode } from './errors.ts';
export { DiskServer } from './disk/client.ts';
export { Pager } from './pager/client.ts';
export { type BranchOptions, pagerKind, type PagerOptions } from './pager/link.ts';
export type {
  Audit,
  Blob,
  Branch,
  BranchDone,
  BranchEvent,
  BranchMode,
  BranchStats,
  Caller,
  HeldLayer,
  LayerMemory,
  HeldSandbox,
  MemoryUse,
  PageInventory,
  PageStats,
  ServedSandbox,
} from './pager/wire.ts';
export { Net } from './net/client.ts';
export type { FlowRecord, Inherited, Policy, Rule } from './net/wire.ts';
export { firecrackerCapabilities } from './firecracker/capabilities.ts';
export { FirecrackerEngine, type FirecrackerOptions } from './firecracker/engine.ts';
export { FirecrackerVm } from './firecracker/vm.ts';
export { availableMemoryBytes } from './memory.ts';
export { isRunning, killProcess, readStartTicks, type ProcessId } from './process.ts';
export { bootArguments, consoleFile, type Host, restoreArguments } from './qemu/arguments.ts';
export { readTail } from './files.ts';
export { removeMemoryLimit } from './memory-limit.ts';
export { qemuCapabilities } from './qemu/capabilities.ts';
export { type Acceleration, type KvmTrial, probeAcceleration, tryKvm } from './qemu/probe.ts';
export { QemuEngine, type QemuOptions } from './qemu/engine.ts';
export { anySignal } from './signals.ts';
export { waitUntilRunning } from './qemu/monitor.ts';
export type {
  Accelerator,
  BootSpec,
  Capabilities,
  Capability,
  CpuModel,
  Engine,
  EngineName,
  Isolation,
  KernelFiles,
  Loadable,
  Machine,
  PauseFloor,
  Processor,
  RestoreSpec,
  Shape,
  Vm,
  VmBranch,
  VmBranchDone,
  VmBranchEvent,
  VmExit,
  VmFault,
  VmNetwork,
  VmRecord,
  WindowKind,
  Wires,
} from './types.ts';
