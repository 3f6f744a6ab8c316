import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import { Count, ErrorEvent, Nullable, Omittable } from './common.ts';
import { commandFields } from './sandboxes.ts';

/** `POST /v1/sandboxes/:id/commands`. Without a timeout the command runs until it ends or the sandbox does. */
export const StartCommandRequest = Type.Object({
  ...commandFields,
  /** The command gets a pipe that `POST …/stdin` feeds; otherwise it reads end-of-file at once. */
  stdin: Type.Optional(Type.Boolean({ default: false })),
  timeout_secs: Omittable(Type.Number({ exclusiveMinimum: 0, maximum: limits.execTimeoutSecsMax })),
  /** Reply with the stream of events, as the header `Accept: application/x-ndjson` asks for too. */
  follow: Type.Optional(Type.Boolean({ default: false })),
});
export type StartCommandRequest = Static<typeof StartCommandRequest>;

/** Output offsets count the bytes of stdout and stderr together, in the order in which the agent read them. */
export const CommandInfo = Type.Object({
  id: Type.String(),
  pid: Type.Integer(),
  args: Type.Array(Type.String()),
  running: Type.Boolean(),
  /** null while it runs; 128 + the signal where one ended it, as shells count. */
  exit_code: Nullable(Type.Integer()),
  /** The signal's name without SIG. */
  signal: Nullable(Type.String()),
  timed_out: Type.Boolean(),
  /** The ring holds the bytes from `output_start` up to, not including, `output_end`. */
  output_start: Count,
  output_end: Count,
  started_unix_ms: Count,
});
export type CommandInfo = Static<typeof CommandInfo>;

export const CommandList = Type.Array(CommandInfo);

export const CommandOutputQuery = Type.Object({
  offset: Type.Optional(Type.Integer({ default: 0, minimum: 0 })),
  follow: Type.Optional(Type.Boolean({ default: false })),
});
export type CommandOutputQuery = Static<typeof CommandOutputQuery>;

export const CommandStdinQuery = Type.Object({
  close: Type.Optional(Type.Boolean({ default: false })),
});
export type CommandStdinQuery = Static<typeof CommandStdinQuery>;

/** A number, or a name with or without `SIG`. */
export const SignalRequest = Type.Object({
  signal: Type.Union([Type.Integer({ minimum: 1, maximum: 64 }), Type.String({ minLength: 1, maxLength: 16 })]),
});
export type SignalRequest = Static<typeof SignalRequest>;

export const CommandStartedEvent = Type.Object({
  type: Type.Literal('started'),
  id: Type.String(),
  pid: Type.Integer(),
});
export const CommandOutputEvent = Type.Object({
  type: Type.Union([Type.Literal('stdout'), Type.Literal('stderr')]),
  /** Of the first byte of `data`. */
  offset: Count,
  /** Base64: output is bytes. */
  data: Type.String(),
});
/** Bytes that the ring no longer holds: the reader was slower than the command, or came late. */
export const CommandGapEvent = Type.Object({ type: Type.Literal('gap'), from: Count, to: Count });
export const CommandExitEvent = Type.Object({
  type: Type.Literal('exit'),
  exit_code: Nullable(Type.Integer()),
  signal: Nullable(Type.String()),
  timed_out: Type.Boolean(),
});

/** One line of a followed command. `exit` or `error` is the last; a stream without either was cut, and can be taken up at its offset. */
export const CommandEvent = Type.Union([
  CommandStartedEvent,
  CommandOutputEvent,
  CommandGapEvent,
  CommandExitEvent,
  ErrorEvent,
]);
export type CommandEvent = Static<typeof CommandEvent>;
