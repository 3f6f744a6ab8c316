import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import { Argument, Count, ErrorEvent, field, Nullable, Omittable } from './common.ts';
import { commandFields } from './sandboxes.ts';

export const PtySize = Type.Object(
  {
    cols: field(Type.Integer({ minimum: 1, maximum: limits.ptyColsMax }), 'Columns of the terminal.'),
    rows: field(Type.Integer({ minimum: 1, maximum: limits.ptyRowsMax }), 'Rows of the terminal.'),
  },
  { description: 'The size of a terminal, in characters.', examples: [{ cols: 80, rows: 24 }] },
);
export type PtySize = Static<typeof PtySize>;

export const StartCommandRequest = Type.Object(
  {
    ...commandFields,
    args: field(
      Type.Array(Argument, { maxItems: limits.commandArgsMax }),
      "The program and its arguments. No shell is involved. Empty: the image's ENTRYPOINT and CMD; with `pty` the user's shell.",
    ),
    stdin: field(
      Type.Optional(Type.Boolean({ default: false })),
      'True: standard input is a pipe that `POST …/stdin` writes to. False: the command reads end-of-file at once.',
    ),
    pty: field(
      Type.Optional(PtySize),
      'Give the command a terminal of this size. Its output is that of the terminal, all in `stdout`, and `POST …/stdin` types into it.',
    ),
    timeout_secs: field(
      Omittable(Type.Number({ exclusiveMinimum: 0, maximum: limits.execTimeoutSecsMax })),
      'Kill the command after this many seconds. Default: no timeout.',
    ),
    follow: field(
      Type.Optional(Type.Boolean({ default: false })),
      'True: reply with the stream of events. The header `Accept: application/x-ndjson` does the same.',
    ),
    on_disconnect: field(
      Type.Optional(Type.Union([Type.Literal('continue'), Type.Literal('kill')], { default: 'continue' })),
      'With `follow`: what happens to the command if the stream ends before it. `kill` also deletes its output.',
    ),
  },
  {
    description: 'A command to start, which keeps running after the reply.',
    examples: [{ args: ['python3', '-m', 'http.server'], cwd: '/srv' }],
  },
);
export type StartCommandRequest = Static<typeof StartCommandRequest>;

const commandId = field(Type.String(), 'Id of the command within its sandbox.');
const pid = field(Type.Integer(), 'Process id in the guest.');
const exitCode = field(
  Nullable(Type.Integer()),
  'Exit code. 128 plus the number of the signal that ended the command, as shells report it. Null while it runs.',
);
const signalName = field(
  Nullable(Type.String()),
  'Name of the signal that ended the command, without `SIG`. Null if it exited by itself.',
);
const timedOut = field(Type.Boolean(), 'True if the command was killed because its time was over.');

export const CommandInfo = Type.Object(
  {
    id: commandId,
    pid,
    args: field(Type.Array(Type.String()), 'The program and its arguments.'),
    running: field(Type.Boolean(), 'True until the command has ended.'),
    exit_code: exitCode,
    signal: signalName,
    timed_out: timedOut,
    output_start: field(
      Count,
      'Offset of the oldest byte of output that is still kept. Offsets count stdout and stderr together, in the order in ' +
        'which the agent read them.',
    ),
    output_end: field(Count, 'Offset after the newest byte of output.'),
    started_unix_ms: field(Count, 'Start time, in milliseconds since 1970.'),
    pty: field(Type.Optional(PtySize), 'Size of the terminal of the command. Absent if it has none.'),
  },
  {
    description: 'A command of a sandbox.',
    examples: [
      {
        id: 'c-5d0e7a91b24c38f6',
        pid: 214,
        args: ['python3', '-m', 'http.server'],
        running: true,
        exit_code: null,
        signal: null,
        timed_out: false,
        output_start: 0,
        output_end: 52,
        started_unix_ms: 1_767_225_600_000,
      },
    ],
  },
);
export type CommandInfo = Static<typeof CommandInfo>;

export const CommandList = Type.Array(CommandInfo);

export const CommandOutputQuery = Type.Object({
  offset: field(Type.Optional(Type.Integer({ default: 0, minimum: 0 })), 'Offset of the first byte to return.'),
  follow: field(
    Type.Optional(Type.Boolean({ default: false })),
    'True: keep the stream open until the command ends. False: end the stream after the output so far.',
  ),
});
export type CommandOutputQuery = Static<typeof CommandOutputQuery>;

export const CommandStdinQuery = Type.Object({
  close: field(Type.Optional(Type.Boolean({ default: false })), 'True: close standard input after these bytes.'),
});
export type CommandStdinQuery = Static<typeof CommandStdinQuery>;

export const PtyQuery = Type.Object({
  offset: field(
    Type.Optional(Type.Integer({ minimum: 0 })),
    'Offset of the first byte of output to send, to continue after a lost connection. Default: the screen as it is, and what follows.',
  ),
  window_bytes: field(
    Type.Optional(Type.Integer({ minimum: limits.ptyWindowBytesMin, maximum: limits.ptyWindowBytesMax })),
    'Bytes of binary messages that may be unacknowledged. Default: no acknowledgement is expected.',
  ),
});
export type PtyQuery = Static<typeof PtyQuery>;

export const PtyTicket = Type.Object(
  {
    ticket: field(
      Type.String(),
      'Name it as a second subprotocol, `forkd.ticket.` and the ticket. It can be used once.',
    ),
    expires_unix: field(Count, 'Time after which the ticket cannot be used any more.'),
  },
  {
    description: 'The right to one connection to a terminal.',
    examples: [{ ticket: 'q1Jx0cZ1u2M', expires_unix: 1_767_225_630 }],
  },
);
export type PtyTicket = Static<typeof PtyTicket>;

/** A text message from a viewer of a terminal. */
export const PtyControl = Type.Union([
  Type.Object({ type: Type.Literal('resize'), ...PtySize.properties }),
  Type.Object({
    type: Type.Literal('signal'),
    signal: Type.Union([Type.Integer({ minimum: 1, maximum: 64 }), Type.String({ minLength: 1, maxLength: 16 })]),
  }),
  Type.Object({ type: Type.Literal('ack'), bytes: Type.Integer({ minimum: 1, maximum: limits.ptyWindowBytesMax }) }),
]);
export type PtyControl = Static<typeof PtyControl>;

/** A text message to a viewer of a terminal. The binary messages between them are bytes for its screen. */
export type PtyNotice =
  | { type: 'attached'; id: string; pid: number; cols: number; rows: number }
  /** The binary messages from here to `output` draw the screen. `skipped_bytes` of output are left out for it. */
  | { type: 'screen'; offset: number; skipped_bytes: number }
  /** The binary messages from here on are output, which begins at `offset`. */
  | { type: 'output'; offset: number }
  | { type: 'exit'; exit_code: number; signal: string | null; timed_out: boolean }
  | { type: 'error'; error: string; code: string; hint?: string };

export const SignalRequest = Type.Object(
  {
    signal: field(
      Type.Union([Type.Integer({ minimum: 1, maximum: 64 }), Type.String({ minLength: 1, maxLength: 16 })]),
      'The signal, by its number or by its name with or without `SIG`.',
    ),
  },
  { description: 'A signal to send to a command.', examples: [{ signal: 'TERM' }] },
);
export type SignalRequest = Static<typeof SignalRequest>;

export const CommandStartedEvent = Type.Object(
  { type: field(Type.Literal('started'), 'The command has started.'), id: commandId, pid },
  { examples: [{ type: 'started', id: 'c-5d0e7a91b24c38f6', pid: 214 }] },
);
export const CommandOutputEvent = Type.Object(
  {
    type: field(Type.Union([Type.Literal('stdout'), Type.Literal('stderr')]), 'The stream that the command wrote to.'),
    offset: field(Count, 'Offset of the first byte of `data`.'),
    data: field(Type.String(), 'The bytes, in base64.'),
  },
  { examples: [{ type: 'stdout', offset: 0, data: 'aGVsbG8K' }] },
);
export const CommandGapEvent = Type.Object({
  type: field(
    Type.Literal('gap'),
    'Output was dropped before it could be read: the reader was too slow or started too late.',
  ),
  from: field(Count, 'Offset of the first byte that was dropped.'),
  to: field(Count, 'Offset after the last byte that was dropped.'),
});
export const CommandExitEvent = Type.Object(
  {
    type: field(Type.Literal('exit'), 'The command has ended.'),
    exit_code: exitCode,
    signal: signalName,
    timed_out: timedOut,
  },
  { examples: [{ type: 'exit', exit_code: 0, signal: null, timed_out: false }] },
);

export const CommandEvent = Type.Union(
  [CommandStartedEvent, CommandOutputEvent, CommandGapEvent, CommandExitEvent, ErrorEvent],
  {
    description:
      'One line of the output of a command. The last line is `exit` or `error`. A stream that ends without either was cut ' +
      'off; read on from the next offset.',
  },
);
export type CommandEvent = Static<typeof CommandEvent>;
