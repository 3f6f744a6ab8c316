/**
 * The replies of the agent: a schema and a size limit for each route. The agent belongs to the guest, so no reply is used
 * before it has been checked. Fields without a schema are ignored, because a newer agent may send more. The compiler holds
 * the schemas to the types in `agent-wire.ts`, which are generated from the source of the agent.
 */
import { limits, RefreshEntry, Nullable } from '@forkd/api';
import { Type, type Static, type TSchema } from 'typebox';
import { Compile, type Validator } from 'typebox/compile';
import type * as agent from './agent-wire.ts';
import { GuestError } from './errors.ts';
import { replyBytesMax } from './limits.ts';
import type {
  CommandInfo,
  CurrentIdentity,
  DirectoryEntry,
  EvalResult,
  FileFacts,
  FileStat,
  Identity,
  Ping,
  StartOptions,
} from './types.ts';

/** Assignable to that of another type only if both types have the same fields of the same types. */
type Exact<Value> = (value: [Value, Required<Value>]) => [Value, Required<Value>];

/** The reply of a route: its shape and its maximum size. */
export class Reply<Schema extends TSchema> {
  /** Never set. Only replies with exactly the same fields of the same types are assignable to each other. */
  declare readonly exact?: Exact<Static<Schema>>;
  readonly bytesMax: number;
  readonly #schema: Schema;
  #validator: Validator | undefined;

  constructor(bytesMax: number, schema: Schema) {
    this.bytesMax = bytesMax;
    this.#schema = schema;
  }

  /** The value, if it has the shape. @throws GuestError `bad_response` */
  check(value: unknown): Static<Schema> {
    this.#validator ??= Compile(this.#schema);
    if (this.#validator.Check(value)) return value as Static<Schema>;
    throw new GuestError('bad_response', "The agent's answer does not have the shape of its route.");
  }
}

const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const Int32 = Type.Integer({ minimum: -(2 ** 31), maximum: 2 ** 31 - 1 });
const Pid = Nullable(Type.Integer({ minimum: 1, maximum: 2 ** 22 }));
const CommandId = Type.String({ pattern: '^[A-Za-z0-9-]{1,64}$' });
const SignalName = Type.String({ pattern: '^[A-Z0-9]{1,16}$' });
/** A word without characters that control a terminal. */
const Word = Type.String({ pattern: '^[!-~]{1,64}$' });
/** Name of an entry: a single step down from its directory. */
const EntryName = Type.String({ pattern: String.raw`^(?!\.{1,2}$)[^/\u0000]{1,255}$` });
/** The directory of a path has up to 4095 bytes, and its name up to 255. */
const WatchedPath = Type.String({ pattern: String.raw`^/[^\u0000]*$`, maxLength: 4352 });
const Mode = Type.String({ pattern: '^[0-7]{3,4}$' });

const TerminalSide = Type.Integer({ minimum: 1, maximum: 1000 });
const PtySize = Type.Object({ rows: TerminalSide, cols: TerminalSide });

const Command = Type.Object({
  id: CommandId,
  pid: Pid,
  args: Type.Array(Type.String()),
  running: Type.Boolean(),
  exit_code: Nullable(Int32),
  signal: Nullable(SignalName),
  timed_out: Type.Boolean(),
  started_unix_ms: Count,
  output_start: Count,
  output_end: Count,
  pty: Type.Optional(PtySize),
});

const facts = {
  type: Type.Union([Type.Literal('file'), Type.Literal('dir'), Type.Literal('symlink'), Type.Literal('other')]),
  // The size and the time may exceed what a JavaScript number represents exactly.
  size: Type.Number({ minimum: 0 }),
  mode: Mode,
  mtime_unix: Type.Number(),
};
const Id = Type.Integer({ minimum: 0, maximum: 2 ** 32 - 1 });
const Target = Nullable(Type.String({ maxLength: 4096 }));
const Stat = Type.Object({ ...facts, uid: Id, gid: Id, target: Target });
/** Agents from before these leave the last three fields out. */
const Entry = Type.Object({
  name: EntryName,
  ...facts,
  uid: Type.Optional(Id),
  gid: Type.Optional(Id),
  target: Type.Optional(Target),
});

const Evaluation = Type.Object({
  result: Nullable(Type.String()),
  error: Nullable(Type.String()),
  exit_code: Int32,
  stdout: Type.String(),
  stderr: Type.String(),
  truncated: Type.Boolean(),
  timed_out: Type.Boolean(),
  state_lost: Type.Boolean(),
  /** Agents from before these say only that something was cut. */
  stdout_dropped_bytes: Type.Optional(Count),
  stderr_dropped_bytes: Type.Optional(Count),
  /** Agents from before this one have the traceback in `error`. */
  traceback: Type.Optional(Nullable(Type.String())),
});

type Without<Value, Names extends keyof Value> = Omit<Value, Names> & Partial<Pick<Value, Names>>;

/** The replies as the agent declares them, except where agents of another version differ. */
interface Declared extends Omit<agent.Replies, 'directory' | 'error' | 'evaluation'> {
  /** A newer agent may know other codes. */
  error: Record<keyof agent.Failure, string>;
  /** Older agents leave these fields out. */
  directory: Without<agent.Entry, 'uid' | 'gid' | 'target'>;
  evaluation: Without<agent.Evaluation, 'stdout_dropped_bytes' | 'stderr_dropped_bytes' | 'traceback'>;
}

/** The reply of each route of the agent. */
export const replies = {
  nothing: new Reply(replyBytesMax.nothing, Type.Unknown()),
  ping: new Reply(
    replyBytesMax.ping,
    Type.Object({
      pong: Type.Boolean(),
      pid: Type.Integer({ minimum: 1, maximum: 2 ** 22 }),
      version: Word,
      generation: Count,
      uptime_ms: Count,
    }),
  ),
  identified: new Reply(
    replyBytesMax.identity,
    Type.Object({ generation: Count, reseeded: Type.Array(Word, { maxItems: 16 }) }),
  ),
  identity: new Reply(
    replyBytesMax.identity,
    Type.Object({
      generation: Count,
      hostname: Nullable(Type.String({ pattern: '^[A-Za-z0-9.-]{1,64}$' })),
      machine_id: Nullable(Type.String({ pattern: '^[0-9a-f]{32}$' })),
    }),
  ),
  refresh: new Reply(
    replyBytesMax.refresh,
    Type.Object({
      entries: Type.Array(RefreshEntry, { maxItems: limits.refreshesMax }),
      ram_above_4g: Count,
      unavailable: Nullable(Type.String()),
    }),
  ),
  thawed: new Reply(replyBytesMax.thawed, Type.Object({ was_frozen: Type.Boolean() })),
  started: new Reply(replyBytesMax.started, Type.Object({ id: CommandId, pid: Pid })),
  command: new Reply(replyBytesMax.command, Command),
  /** An item of the listing; the bound is of all of it. */
  commands: new Reply(replyBytesMax.commands, Command),
  /** An item of the listing; the bound is of all of it. */
  directory: new Reply(replyBytesMax.directory, Entry),
  stat: new Reply(replyBytesMax.stat, Stat),
  evaluation: new Reply(replyBytesMax.evaluation, Evaluation),
  change: new Reply(
    replyBytesMax.change,
    Type.Union([
      Type.Object({ type: Type.Literal('create'), path: WatchedPath }),
      Type.Object({ type: Type.Literal('modify'), path: WatchedPath }),
      Type.Object({ type: Type.Literal('remove'), path: WatchedPath }),
      Type.Object({ type: Type.Literal('rename'), path: WatchedPath, to: WatchedPath }),
      Type.Object({ type: Type.Literal('overflow') }),
    ]),
  ),
  error: new Reply(replyBytesMax.error, Type.Object({ error: Type.String(), code: Type.String() })),
  exit: new Reply(
    replyBytesMax.started,
    Type.Object({
      exit_code: Int32,
      signal: Nullable(SignalName),
      timed_out: Type.Boolean(),
      error_code: Type.Optional(Type.Union([Type.Literal('command_not_found'), Type.Literal('permission_denied')])),
    }),
  ),
  gap: new Reply(replyBytesMax.started, Type.Object({ from: Count, to: Count })),
  /** The headers of a file. */
  file: new Reply(
    replyBytesMax.started,
    Type.Object({ 'x-mode': Mode, 'content-length': Type.Optional(Type.String({ pattern: '^[0-9]{1,15}$' })) }),
  ),
} satisfies { [Name in keyof Declared]: { readonly exact?: Exact<Declared[Name]> } } & Record<
  'nothing' | 'file',
  object
>;

export type ReplyOf<Name extends keyof typeof replies> = ReturnType<(typeof replies)[Name]['check']>;

/** A request as the agent takes it, in which fields may also be undefined to be left out. */
export type Sent<Request> = {
  [Name in keyof Request]: Request[Name] | (object extends Pick<Request, Name> ? undefined : never);
};

export function pingOf(wire: ReplyOf<'ping'>): Ping {
  return { pid: wire.pid, version: wire.version, generation: wire.generation, uptimeMs: wire.uptime_ms };
}

export function identityRequest(identity: Identity): agent.IdentityRequest {
  return {
    entropy: Buffer.from(identity.entropy).toString('base64'),
    wall_clock_unix_ns: identity.wallClockUnixNs.toString(),
    hostname: identity.hostname,
    machine_id: identity.machineId,
  };
}

export function identityOf(wire: ReplyOf<'identity'>): CurrentIdentity {
  return {
    generation: wire.generation,
    hostname: wire.hostname ?? undefined,
    machineId: wire.machine_id ?? undefined,
  };
}

export function commandRequest(
  args: readonly string[],
  options: Omit<StartOptions, 'signal' | 'timeoutMs'>,
): Sent<agent.CommandRequest> {
  return {
    args: [...args],
    env: options.env,
    cwd: options.cwd,
    user: options.user,
    stdin: options.stdin,
    timeout_ms: options.commandTimeoutMs,
    output_limit: options.outputLimitBytes,
    pty: options.pty,
  };
}

export function commandOf(wire: ReplyOf<'command'>): CommandInfo {
  return {
    id: wire.id,
    pid: wire.pid ?? undefined,
    args: wire.args,
    running: wire.running,
    exitCode: wire.exit_code ?? undefined,
    signal: wire.signal ?? undefined,
    timedOut: wire.timed_out,
    startedUnixMs: wire.started_unix_ms,
    outputStart: wire.output_start,
    outputEnd: wire.output_end,
    pty: wire.pty,
  };
}

export function entryOf(wire: ReplyOf<'directory'>): DirectoryEntry {
  const { name, uid, gid, target = null } = wire;
  return { name, ...factsOf(wire), uid, gid, target: target ?? undefined };
}

export function statOf(wire: ReplyOf<'stat'>): FileStat {
  return { ...factsOf(wire), uid: wire.uid, gid: wire.gid, target: wire.target ?? undefined };
}

function factsOf(wire: Omit<ReplyOf<'directory'>, 'name'>): FileFacts {
  return {
    type: wire.type,
    sizeBytes: safeInteger(wire.size),
    mode: parseInt(wire.mode, 8),
    mtimeUnix: safeInteger(wire.mtime_unix),
  };
}

export function evalOf(wire: ReplyOf<'evaluation'>): EvalResult {
  return {
    result: wire.result ?? undefined,
    error: wire.error ?? undefined,
    traceback: wire.traceback ?? undefined,
    exitCode: wire.exit_code,
    stdout: wire.stdout,
    stderr: wire.stderr,
    truncated: wire.truncated,
    stdoutDroppedBytes: wire.stdout_dropped_bytes,
    stderrDroppedBytes: wire.stderr_dropped_bytes,
    timedOut: wire.timed_out,
    stateLost: wire.state_lost,
  };
}

function safeInteger(value: number): number {
  return Math.min(Math.max(Math.trunc(value), Number.MIN_SAFE_INTEGER), Number.MAX_SAFE_INTEGER);
}
