import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import { Argument, Count, GuestPath, Labels, Measure, Nullable, Omittable, Tag, textsByKey } from './common.ts';

export const SandboxState = Type.Union([Type.Literal('running'), Type.Literal('paused')]);
export type SandboxState = Static<typeof SandboxState>;

/** What becomes of a sandbox whose time is over. */
export const OnExpire = Type.Union([Type.Literal('kill'), Type.Literal('pause')]);
export type OnExpire = Static<typeof OnExpire>;

const TtlSecs = Type.Integer({ minimum: 1, maximum: limits.ttlSecsMax });

/** A VM. The nulls are present on the wire; what is optional is absent when empty. */
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
  /** A paused one has its memory and no processor: nothing in it runs, and it cannot be asked anything. */
  state: Type.Optional(SandboxState),
  name: Type.Optional(Type.String()),
  labels: Type.Optional(Labels),
  /** When its time is over; absent for one that lives until it is ended. */
  expires_at_unix: Type.Optional(Count),
  on_expire: Type.Optional(OnExpire),
  /** The workspace whose live sandbox it is. */
  workspace: Type.Optional(Type.String()),
  /** What was asked for and is not so, in sentences. */
  warnings: Type.Optional(Type.Array(Type.String())),
  /** Restore begun until the VM ran. */
  fork_ms: Type.Optional(Measure),
  /** Restore begun until the child had an identity of its own and could be asked. */
  ready_ms: Type.Optional(Measure),
});
export type SandboxInfo = Static<typeof SandboxInfo>;

export const SandboxList = Type.Array(SandboxInfo);

/** `GET /v1/sandboxes`: those that match all that is given. */
export const ListSandboxesQuery = Type.Object({
  /** `key` or `key=value`, any number of times. */
  label: Type.Optional(Type.Union([Type.String(), Type.Array(Type.String(), { maxItems: limits.labelsMax })])),
  name: Type.Optional(Type.String()),
  snapshot_tag: Type.Optional(Type.String()),
  workspace: Type.Optional(Type.String()),
  state: Type.Optional(SandboxState),
});
export type ListSandboxesQuery = Static<typeof ListSandboxesQuery>;

export const CreateSandboxesRequest = Type.Object({
  snapshot_tag: Tag,
  n: Type.Optional(
    Type.Integer({ default: limits.forkCountDefault, minimum: limits.forkCountMin, maximum: limits.forkCountMax }),
  ),
  per_child_netns: Type.Optional(Type.Boolean({ default: false })),
  memory_limit_mib: Omittable(Type.Integer({ minimum: limits.memoryLimitMibMin, maximum: limits.memMibMax })),
  /** Accepted and needless: a child's first branch costs what the others do. */
  prewarm: Type.Optional(Type.Boolean({ default: false })),
  /** Accepted and needless: every sandbox can be branched live. */
  live_fork: Type.Optional(Type.Boolean({ default: false })),
  /** Accepted; layers are mapped in pages of 4 KiB, and a warning says so. */
  hugepages: Type.Optional(Type.Boolean({ default: false })),
  /** Unique among the sandboxes that are there; only where n is 1. Taken in place of the id everywhere. */
  name: Omittable(Tag),
  labels: Omittable(Labels),
  /** Without it a sandbox lives until it is ended. */
  ttl_secs: Omittable(TtlSecs),
  on_expire: Type.Optional(OnExpire),
  /** Keep those that started when some of n fail, and answer 207 with one result each; otherwise none is kept. */
  partial: Type.Optional(Type.Boolean({ default: false })),
});
export type CreateSandboxesRequest = Static<typeof CreateSandboxesRequest>;

export const ForkResult = Type.Union([
  Type.Object({ index: Count, sandbox: SandboxInfo }),
  Type.Object({ index: Count, error: Type.String(), code: Type.String(), hint: Type.Optional(Type.String()) }),
]);
export type ForkResult = Static<typeof ForkResult>;

/** 207 of a fork with `partial`, where some failed; one where all started is answered with the list, as without it. */
export const PartialForkResponse = Type.Object({ results: Type.Array(ForkResult) });
export type PartialForkResponse = Static<typeof PartialForkResponse>;

/** `PATCH /v1/sandboxes/:id`: what is left out stays as it is; null takes it away. */
export const UpdateSandboxRequest = Type.Object({
  name: Omittable(Tag),
  /** In place of all that there were. */
  labels: Omittable(Labels),
  /** From now on. */
  ttl_secs: Omittable(TtlSecs),
  on_expire: Type.Optional(OnExpire),
});
export type UpdateSandboxRequest = Static<typeof UpdateSandboxRequest>;

/** What a sandbox has used since it was started. */
export const SandboxStats = Type.Object({
  id: Type.String(),
  state: SandboxState,
  uptime_secs: Measure,
  /** Of the VMM, in user and kernel mode. */
  cpu_secs: Measure,
  /** Of the VMM, its guest's memory included. */
  rss_bytes: Count,
  minor_faults: Count,
  major_faults: Count,
  /** Guest pages: its own, and in common with its siblings. */
  private_bytes: Count,
  shared_bytes: Count,
  memory_limit_bytes: Nullable(Count),
  /** Commands and evaluations that this controller has run in it. */
  exec_count: Count,
  branch_count: Count,
});
export type SandboxStats = Static<typeof SandboxStats>;

/** `GET /v1/sandboxes/:id/logs`: the guest's console, as text. */
export const LogsQuery = Type.Object({
  tail_bytes: Type.Optional(
    Type.Integer({ default: limits.logTailBytesDefault, minimum: 0, maximum: limits.logTailBytesMax }),
  ),
  follow: Type.Optional(Type.Boolean({ default: false })),
});
export type LogsQuery = Static<typeof LogsQuery>;

const commandArgs = Type.Array(Argument, {
  minItems: 1,
  maxItems: limits.commandArgsMax,
});
const commandEnv = textsByKey('^[^=\\u0000]+$', Argument, limits.envEntriesMax);

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
