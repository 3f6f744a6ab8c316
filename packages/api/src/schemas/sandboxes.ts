import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import { Count, GuestPath, Measure, Nullable, Omittable, Tag } from './common.ts';

/** A running VM. The nulls are present on the wire. */
export const SandboxInfo = Type.Object({
  id: Type.String(),
  snapshot_tag: Type.String(),
  netns: Nullable(Type.String()),
  guest_addr: Type.String(),
  created_at_unix: Count,
  pid: Nullable(Type.Integer()),
  memory_limit_mib: Nullable(Count),
  has_branched: Type.Boolean(),
  last_branch_memory_path: Nullable(Type.String()),
  branch_count: Count,

  hostname: Type.Optional(Type.String()),
  /** Restore begun until the VM ran. */
  fork_ms: Type.Optional(Measure),
  /** Restore begun until the child had an identity of its own and could be asked. */
  ready_ms: Type.Optional(Measure),
});
export type SandboxInfo = Static<typeof SandboxInfo>;

export const SandboxList = Type.Array(SandboxInfo);

export const CreateSandboxesRequest = Type.Object({
  snapshot_tag: Tag,
  n: Type.Optional(
    Type.Integer({ default: limits.forkCountDefault, minimum: limits.forkCountMin, maximum: limits.forkCountMax }),
  ),
  per_child_netns: Type.Optional(Type.Boolean({ default: false })),
  memory_limit_mib: Omittable(Type.Integer({ minimum: 1 })),
  prewarm: Type.Optional(Type.Boolean({ default: false })),
  /** Accepted and needless: every sandbox can be branched live. */
  live_fork: Type.Optional(Type.Boolean({ default: false })),
  hugepages: Type.Optional(Type.Boolean({ default: false })),
});
export type CreateSandboxesRequest = Static<typeof CreateSandboxesRequest>;

const commandArgs = Type.Array(Type.String({ maxLength: limits.commandArgBytesMax }), {
  minItems: 1,
  maxItems: limits.commandArgsMax,
});
const commandEnv = Type.Record(Type.String(), Type.String());

/** What `exec` and `commands` share: how a process is started in the guest. */
export const commandFields = {
  args: commandArgs,
  env: Omittable(commandEnv),
  cwd: Omittable(GuestPath),
  user: Omittable(Type.String({ minLength: 1, maxLength: 256 })),
};

export const ExecRequest = Type.Object({
  ...commandFields,
  timeout_secs: Type.Optional(
    Type.Number({
      default: limits.execTimeoutSecsDefault,
      exclusiveMinimum: 0,
      maximum: limits.execTimeoutSecsMax,
    }),
  ),
  /** Base64, since stdin is bytes and JSON is text. */
  stdin: Omittable(Type.String({ maxLength: limits.stdinBase64BytesMax })),
});
export type ExecRequest = Static<typeof ExecRequest>;

export const ExecResponse = Type.Object({
  stdout: Type.String(),
  stderr: Type.String(),
  exit_code: Type.Integer(),
});
export type ExecResponse = Static<typeof ExecResponse>;

export const EvalRequest = Type.Object({
  code: Type.String({ maxLength: limits.codeBytesMax }),
  timeout_secs: Type.Optional(
    Type.Number({
      default: limits.evalTimeoutSecsDefault,
      exclusiveMinimum: 0,
      maximum: limits.execTimeoutSecsMax,
    }),
  ),
});
export type EvalRequest = Static<typeof EvalRequest>;

/** `result` is the repr of the last expression; `error` a traceback, and then `exit_code` is not 0. */
export const EvalResponse = Type.Object({
  result: Nullable(Type.String()),
  error: Nullable(Type.String()),
  exit_code: Type.Integer(),
  stdout: Type.Optional(Type.String()),
  stderr: Type.Optional(Type.String()),
  /** More was printed than `stdout` and `stderr` carry. */
  truncated: Type.Optional(Type.Boolean()),
  timed_out: Type.Optional(Type.Boolean()),
  /** The interpreter ended, and with it what it had in memory: the next evaluation has a fresh one. */
  state_lost: Type.Optional(Type.Boolean()),
});
export type EvalResponse = Static<typeof EvalResponse>;

export const PingResponse = Type.Object(
  { pong: Type.Literal(true), pid: Type.Integer() },
  { additionalProperties: true },
);
export type PingResponse = Static<typeof PingResponse>;

/** Guest pages that this VM alone has, and pages that it has in common with its siblings, as resident now. */
export const MemoryInfo = Type.Object({ private_bytes: Count, shared_bytes: Count });
export type MemoryInfo = Static<typeof MemoryInfo>;

/** A pause with nothing in it but stop, device state and run: the floor that a live branch is held against. */
export const FloorInfo = Type.Object({ pause_us: Measure, device_state_us: Measure });
export type FloorInfo = Static<typeof FloorInfo>;
