import { setTimeout as delay } from 'node:timers/promises';
import { CommandInfo, EvalResponse, ExecResponse } from '@forkd/api';
import { errorFromEvent, isForkdError } from '@forkd/sdk';
import { Type } from 'typebox';
import { defineTool, type Call } from '../tool.ts';
import { commandId, given, guestPath, listOf, orNull, sandboxId } from './fields.ts';

const OUTPUT_BYTES_MAX = 64 * 1024;
const WAIT_SECS_MAX = 600;
const TAIL_BYTES = 4096;
const EXCERPT_CHARS = 256;
const POLL_MS_MIN = 20;

const execCommand = defineTool({
  name: 'exec_command',
  title: 'Run a program',
  description:
    'Runs a program in a sandbox to its end and returns its output. A non-zero exit code is a result. There is no shell: ' +
    'for one, use ["sh", "-c", "…"]. For a program that runs longer, use start_command.',
  effect: 'destroy',
  input: Type.Object({
    sandbox_id: sandboxId,
    args: Type.Array(Type.String(), { minItems: 1, description: 'The program and its arguments.' }),
    timeout_secs: Type.Optional(Type.Number({ exclusiveMinimum: 0, description: 'Default: 30.' })),
  }),
  output: ExecResponse,
  run: ({ sandbox_id, args, timeout_secs }, { client, signal }) =>
    client.exec(sandbox_id, { args, ...given({ timeout_secs }) }, { signal }),
});

const evalCode = defineTool({
  name: 'eval_code',
  title: 'Evaluate code',
  description:
    'Evaluates code in the warm interpreter of a sandbox, which keeps its state between calls. `result` is the repr of the last ' +
    'expression. An exception is a result: `error` and `traceback` have it.',
  effect: 'destroy',
  input: Type.Object({
    sandbox_id: sandboxId,
    code: Type.String({ description: 'The code.' }),
    timeout_secs: Type.Optional(Type.Number({ exclusiveMinimum: 0, description: 'Default: 30.' })),
  }),
  output: EvalResponse,
  run: ({ sandbox_id, code, timeout_secs }, { client, signal }) =>
    client.eval(sandbox_id, { code, ...given({ timeout_secs }) }, { signal }),
});

const startCommand = defineTool({
  name: 'start_command',
  title: 'Start a program in the background',
  description:
    'Starts a program and returns. It keeps running, also in forks of the sandbox. Read it with command_output.',
  effect: 'destroy',
  input: Type.Object({
    sandbox_id: sandboxId,
    args: Type.Array(Type.String(), { minItems: 1, description: 'The program and its arguments.' }),
    cwd: orNull(Type.String({ description: 'Working directory.' })),
    env: orNull(Type.Record(Type.String(), Type.String(), { description: 'Further variables of its environment.' })),
    stdin: Type.Optional(Type.Boolean({ description: 'Give it a pipe as stdin, for send_stdin. Default: false.' })),
    timeout_secs: orNull(Type.Number({ exclusiveMinimum: 0, description: 'When it is killed. Default: never.' })),
  }),
  output: CommandInfo,
  run: ({ sandbox_id, args, ...rest }, { client, signal }) =>
    client.startCommand(sandbox_id, { args, ...given(rest) }, { signal }),
});

const listCommands = defineTool({
  name: 'list_commands',
  title: 'List background programs',
  description: 'Lists the commands that run, and those that ended and were not forgotten.',
  effect: 'read',
  input: Type.Object({ sandbox_id: sandboxId }),
  output: listOf(CommandInfo),
  run: (args, { client, signal }) => client.listCommands(args.sandbox_id, { signal }),
});

const commandOutput = defineTool({
  name: 'command_output',
  title: 'Read the output of a program',
  description:
    `Returns the output of a command from \`offset\`, at most ${OUTPUT_BYTES_MAX} bytes. If there is none yet, waits up to ` +
    '`wait_secs` for some, or for the end of the command. Pass `next_offset` as `offset` to read on.',
  effect: 'read',
  input: Type.Object({
    sandbox_id: sandboxId,
    command_id: commandId,
    offset: Type.Optional(Type.Integer({ minimum: 0, description: 'Default: 0.' })),
    wait_secs: Type.Optional(Type.Number({ minimum: 0, maximum: WAIT_SECS_MAX, description: 'Default: 0.' })),
  }),
  output: Type.Object({
    stdout: Type.String(),
    stderr: Type.String(),
    next_offset: Type.Integer({ description: 'Offset after the last byte that is returned.' }),
    lost_bytes: Type.Integer({ description: 'Bytes that were dropped before they were read.' }),
    has_ended: Type.Boolean(),
    exit_code: Type.Union([Type.Integer(), Type.Null()]),
  }),
  run: readOutput,
});

async function readOutput(
  args: { sandbox_id: string; command_id: string; offset?: number; wait_secs?: number },
  { client, signal }: Call,
) {
  const { sandbox_id: id, command_id: command, offset = 0, wait_secs: waitSecs = 0 } = args;
  const before = await client.getCommand(id, command, { signal });
  const follow = before.running && before.output_end <= offset && waitSecs > 0;
  const parts = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  let nextOffset = offset;
  let lostBytes = 0;
  const timeoutMs = follow ? waitSecs * 1000 : 0;
  try {
    for await (const event of client.commandOutput(id, command, { offset, follow }, { signal, timeoutMs })) {
      if (event.type === 'stdout' || event.type === 'stderr') {
        const data = Buffer.from(event.data, 'base64');
        parts[event.type].push(data);
        nextOffset = event.offset + data.length;
      } else if (event.type === 'gap') {
        lostBytes += event.to - event.from;
        nextOffset = event.to;
      } else if (event.type === 'error') {
        throw errorFromEvent(event);
      }
      if (nextOffset - offset >= OUTPUT_BYTES_MAX || (follow && nextOffset > offset)) break;
    }
  } catch (error) {
    // The guest has sent nothing within the time that the caller waits.
    if (!follow || !isForkdError(error, 'request_timeout')) throw error;
  }
  const after = await client.getCommand(id, command, { signal });
  const hasEnded = !after.running && nextOffset >= after.output_end;
  return {
    stdout: Buffer.concat(parts.stdout).toString('utf8'),
    stderr: Buffer.concat(parts.stderr).toString('utf8'),
    next_offset: nextOffset,
    lost_bytes: lostBytes,
    has_ended: hasEnded,
    exit_code: hasEnded ? after.exit_code : null,
  };
}

const sendStdin = defineTool({
  name: 'send_stdin',
  title: 'Write to a program',
  description: 'Writes text to the stdin of a command that was started with `stdin`. `close` closes it after the text.',
  effect: 'destroy',
  input: Type.Object({
    sandbox_id: sandboxId,
    command_id: commandId,
    text: Type.String(),
    close: Type.Optional(Type.Boolean({ description: 'Default: false.' })),
  }),
  output: Type.Object({ sent_bytes: Type.Integer() }),
  async run({ sandbox_id, command_id, text, close }, { client, signal }) {
    await client.writeCommandStdin(sandbox_id, command_id, text, given({ close }), { signal });
    return { sent_bytes: Buffer.byteLength(text) };
  },
});

const signalCommand = defineTool({
  name: 'signal_command',
  title: 'Send a signal to a program',
  description: 'Sends a signal to a command.',
  effect: 'destroy',
  input: Type.Object({
    sandbox_id: sandboxId,
    command_id: commandId,
    signal: Type.String({ description: 'Name of the signal, such as `INT`.' }),
  }),
  output: Type.Object({ command_id: Type.String(), signal: Type.String() }),
  async run({ sandbox_id, command_id, signal: name }, { client, signal }) {
    await client.signalCommand(sandbox_id, command_id, name, { signal });
    return { command_id, signal: name };
  },
});

const killCommand = defineTool({
  name: 'kill_command',
  title: 'End a program',
  description: 'Ends a command if it runs, and forgets its output.',
  effect: 'destroy',
  input: Type.Object({ sandbox_id: sandboxId, command_id: commandId }),
  output: Type.Object({ command_id: Type.String(), killed: Type.Literal(true) }),
  async run({ sandbox_id, command_id }, { client, signal }) {
    await client.deleteCommand(sandbox_id, command_id, { signal });
    return { command_id, killed: true };
  },
});

const waitForText = defineTool({
  name: 'wait_for_text',
  title: 'Wait for text in a file',
  description: `Waits until \`marker\` is in the last ${TAIL_BYTES} bytes of a file. Not to find it in time is a result.`,
  effect: 'read',
  input: Type.Object({
    sandbox_id: sandboxId,
    path: guestPath,
    marker: Type.String({ minLength: 1 }),
    timeout_secs: Type.Optional(Type.Number({ minimum: 0, maximum: WAIT_SECS_MAX, description: 'Default: 60.' })),
    poll_interval_ms: Type.Optional(
      Type.Integer({ minimum: POLL_MS_MIN, maximum: 60_000, description: 'Default: 200.' }),
    ),
  }),
  output: Type.Object({ found: Type.Boolean(), elapsed_ms: Type.Integer(), last_excerpt: Type.String() }),
  async run({ sandbox_id, path, marker, timeout_secs = 60, poll_interval_ms = 200 }, { client, signal }) {
    const startMs = performance.now();
    for (;;) {
      // No shell sees the path. A file that does not exist yet has no text.
      const args = ['tail', '-c', String(TAIL_BYTES), '--', path];
      const { stdout } = await client.exec(sandbox_id, { args, timeout_secs: 5 }, { signal });
      const elapsed_ms = Math.round(performance.now() - startMs);
      const found = stdout.includes(marker);
      if (found || elapsed_ms >= timeout_secs * 1000) {
        return { found, elapsed_ms, last_excerpt: stdout.slice(-EXCERPT_CHARS) };
      }
      await delay(poll_interval_ms, undefined, { signal });
    }
  },
});

export const commandTools = [
  execCommand,
  evalCode,
  startCommand,
  listCommands,
  commandOutput,
  sendStdin,
  signalCommand,
  killCommand,
  waitForText,
];
