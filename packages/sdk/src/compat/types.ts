// The requests and replies of forkd's own TypeScript SDK, under its names. Their fields are those of the API.
import type {
  BranchMode,
  BranchRequest,
  CreateSandboxesRequest,
  ExecResponse,
  SandboxInfo,
  SnapshotInfo,
} from '@forkd/api';

export type { BranchMode, SandboxInfo, SnapshotInfo };

/** The body of `POST /v1/sandboxes`. */
export type SpawnOptions = Pick<
  CreateSandboxesRequest,
  'snapshot_tag' | 'n' | 'per_child_netns' | 'memory_limit_mib' | 'prewarm' | 'live_fork' | 'hugepages'
>;

/** Options of `spawnSandboxes`. `n` defaults to 1, booleans default to false. */
export interface SpawnSandboxesOptions {
  snapshotTag: string;
  n?: number | undefined;
  perChildNetns?: boolean | undefined;
  memoryLimitMib?: number | undefined;
  prewarm?: boolean | undefined;
  liveFork?: boolean | undefined;
  hugepages?: boolean | undefined;
}

/**
 * Options and body of `branchSandbox`. `mode` defaults to `full` and takes precedence over the older `diff` and `live`.
 * `wait: false` returns as soon as the source runs again, and needs the mode `live`.
 */
export type BranchOptions = Pick<
  BranchRequest,
  'tag' | 'diff' | 'live' | 'measure_diff' | 'mode' | 'wait' | 'parent_tag'
>;

export interface ExecOptions {
  args: string[];
  timeout_secs?: number;
}

/** `truncated`: some output is missing here. `stdout_dropped_bytes` and `stderr_dropped_bytes` say how much. */
export type ExecResult = Pick<
  ExecResponse,
  'stdout' | 'stderr' | 'exit_code' | 'truncated' | 'stdout_dropped_bytes' | 'stderr_dropped_bytes'
>;

/** `result` is the repr of the expression in the warmed interpreter; `error` the reason of a failure, in one line. */
export interface EvalResult {
  result: unknown;
  error: string | null;
  exit_code: number;
  truncated?: boolean;
}

/** The reply of the agent in the guest. */
export type PingResult = Record<string, unknown>;
