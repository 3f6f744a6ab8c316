export { Controller, ControllerError, type ControllerOptions } from './controller.ts';
export { Sandbox, type CreateSandboxOptions } from './sandbox.ts';
export type {
  BranchMode,
  BranchOptions,
  EvalResult,
  ExecOptions,
  ExecResult,
  PingResult,
  SandboxInfo,
  SnapshotInfo,
  SpawnOptions,
  SpawnSandboxesOptions,
} from './types.ts';
