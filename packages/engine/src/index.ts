export { EngineError, type EngineErrorCode } from './errors.ts';
export { Pager, type BranchOptions } from './pager/client.ts';
export type { PagerOptions } from './pager/start.ts';
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
  HeldSandbox,
  MemoryUse,
} from './pager/wire.ts';
export { availableMemoryBytes } from './memory.ts';
export { isRunning, killProcess, readStartTicks, type ProcessId } from './process.ts';
export { consoleFile, type Host, restoreArguments } from './qemu/arguments.ts';
export { removeMemoryLimit } from './qemu/memory-limit.ts';
export { runsUnderKvm } from './qemu/probe.ts';
export { QemuEngine, type QemuOptions } from './qemu/engine.ts';
export { waitUntilRunning } from './qemu/monitor.ts';
export type {
  Accelerator,
  BootSpec,
  Engine,
  Isolation,
  KernelFiles,
  Machine,
  RestoreSpec,
  Shape,
  Vm,
  VmExit,
  VmRecord,
} from './types.ts';
