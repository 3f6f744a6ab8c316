// The replies and requests of forkd's own TypeScript SDK, by its names. Fields are the wire's.
import type { BranchMode, BranchRequest, CreateSandboxesRequest, SandboxInfo, SnapshotInfo } from '@forkd/api';

export type { BranchMode, SandboxInfo, SnapshotInfo };

/** `POST /v1/sandboxes`, as it is sent. */
export type SpawnOptions = Pick<
  CreateSandboxesRequest,
  'snapshot_tag' | 'n' | 'per_child_netns' | 'memory_limit_mib' | 'prewarm' | 'live_fork' | 'hugepages'
>;

/** What `spawnSandboxes` takes. Default of `n` is 1, of the bools false. */
export type SpawnSandboxesOptions = {
  snapshotTag: string;
  n?: number | undefined;
  perChildNetns?: boolean | undefined;
  memoryLimitMib?: number | undefined;
  prewarm?: boolean | undefined;
  liveFork?: boolean | undefined;
  hugepages?: boolean | undefined;
};

/**
 * What `branchSandbox` takes, and sends. The mode is `full` where none is given. `mode` goes before the older `diff` and `live`.
 * `wait: false` answers as soon as the source runs again, and needs the mode `live`.
 */
export type BranchOptions = Pick<
  BranchRequest,
  'tag' | 'diff' | 'live' | 'measure_diff' | 'mode' | 'wait' | 'parent_tag'
>;

export type ExecOptions = { args: string[]; timeout_secs?: number };

export type ExecResult = { stdout: string; stderr: string; exit_code: number };

/** `result` is the repr of the expression in the warmed interpreter; `error` a traceback. */
export type EvalResult = { result: unknown; error: string | null; exit_code: number };

/** What the agent in the guest answers. */
export type PingResult = Record<string, unknown>;
