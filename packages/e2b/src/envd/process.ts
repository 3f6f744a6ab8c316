import { type CommandEvent, PtySize, type StartCommandRequest } from '@forkd/api';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { Type, type Static } from 'typebox';
import { ConnectError } from '../errors.ts';
import { environmentOf } from '../guest/environment.ts';
import { absolutePath } from '../guest/user.ts';
import type { Parts } from '../parts.ts';
import { messageOf, messagesOf, readerOf, sendMessage, sendMessages } from './connect.ts';
import { guestCall, type GuestCall } from './route.ts';

const BASE = '/process.Process';
const TIMEOUT_SECS_MAX = 86_400;
const KEEPALIVE = { event: { keepalive: {} } };

const Text = Type.String();
const Base64 = Type.String({ pattern: '^[A-Za-z0-9+/_-]*={0,2}$' });
const Pid = Type.Integer({ minimum: 0 });
const Selector = Type.Object({ pid: Type.Optional(Pid), tag: Type.Optional(Text) });
const Config = Type.Object({
  cmd: Type.String({ minLength: 1 }),
  args: Type.Optional(Type.Array(Text)),
  envs: Type.Optional(Type.Record(Text, Text)),
  cwd: Type.Optional(Text),
});
const Terminal = Type.Object({ size: PtySize });
const Input = Type.Object({ stdin: Type.Optional(Base64), pty: Type.Optional(Base64) });

const StartRequest = readerOf(
  Type.Object({
    process: Config,
    pty: Type.Optional(Terminal),
    tag: Type.Optional(Text),
    stdin: Type.Optional(Type.Boolean()),
  }),
);
type Start = ReturnType<typeof StartRequest.read>;
const OfProcess = readerOf(Type.Object({ process: Selector }));
const UpdateRequest = readerOf(Type.Object({ process: Selector, pty: Terminal }));
const InputRequest = readerOf(Type.Object({ process: Selector, input: Input }));
const SignalRequest = readerOf(
  Type.Object({
    process: Selector,
    signal: Type.Union([Type.Literal('SIGNAL_SIGTERM'), Type.Literal('SIGNAL_SIGKILL')]),
  }),
);
const StreamInputRequest = readerOf(
  Type.Object({
    start: Type.Optional(Type.Object({ process: Selector })),
    data: Type.Optional(Type.Object({ input: Input })),
  }),
);

/** Commands in the guest, as E2B's service for processes. */
export function processRoutes(app: FastifyInstance, parts: Parts): void {
  const { operations, signals } = parts;

  app.post(`${BASE}/Start`, async (request, reply) => {
    const start = await messageOf(request, StartRequest);
    const call = await guestCall(parts, request, signals.ofStream(reply));
    return sendMessages(reply, started(parts, call, start, timeoutSecsOf(request)), KEEPALIVE);
  });
  app.post(`${BASE}/Connect`, async (request, reply) => {
    const { process } = await messageOf(request, OfProcess);
    const call = await guestCall(parts, request, signals.ofStream(reply));
    return sendMessages(reply, connected(parts, call, process), KEEPALIVE);
  });
  app.post(`${BASE}/List`, async (request, reply) => {
    const call = await guestCall(parts, request, signals.ofCall(reply));
    const commands = await operations.listCommands(call.id, call.signal);
    const processes = commands
      .filter(({ running }) => running)
      .map(({ pid, args: [cmd = '', ...args] }) => {
        const known = call.memory.command(pid);
        return { config: known?.config ?? { cmd, args }, pid, ...(known?.tag !== undefined && { tag: known.tag }) };
      });
    return { processes };
  });
  app.post(`${BASE}/SendInput`, { config: { takesLargeJson: true } }, async (request, reply) => {
    const { process, input } = InputRequest.read(request.body);
    const call = await guestCall(parts, request, signals.ofCall(reply));
    await write(parts, call, await commandOf(parts, call, process), input);
    return {};
  });
  app.post(`${BASE}/StreamInput`, (request, reply) =>
    sendMessage(reply, async () => {
      const call = await guestCall(parts, request, signals.ofStream(reply));
      let command: string | undefined;
      for await (const { start, data } of messagesOf(request, StreamInputRequest)) {
        if (start !== undefined) command = await commandOf(parts, call, start.process);
        if (data === undefined) continue;
        if (command === undefined) throw new ConnectError('invalid_argument', 'The first message names no process.');
        await write(parts, call, command, data.input);
      }
      return {};
    }),
  );
  app.post(`${BASE}/CloseStdin`, async (request, reply) => {
    const { process } = OfProcess.read(request.body);
    const call = await guestCall(parts, request, signals.ofCall(reply));
    const command = await commandOf(parts, call, process);
    await operations.writeStdin(call.id, command, new Uint8Array(), true, call.signal);
    return {};
  });
  app.post(`${BASE}/SendSignal`, async (request, reply) => {
    const { process, signal } = SignalRequest.read(request.body);
    const call = await guestCall(parts, request, signals.ofCall(reply));
    const command = await commandOf(parts, call, process);
    await operations.signalCommand(call.id, command, signal.replace('SIGNAL_SIG', ''), call.signal);
    return {};
  });
  app.post(`${BASE}/Update`, async (request, reply) => {
    const { process, pty } = UpdateRequest.read(request.body);
    const call = await guestCall(parts, request, signals.ofCall(reply));
    await operations.resizeTerminal(call.id, await commandOf(parts, call, process), pty.size, call.signal);
    return {};
  });
}

/** Starts a command and follows it. The command continues when the caller leaves. */
async function* started(
  { operations }: Parts,
  { id, memory, account, signal }: GuestCall,
  start: Start,
  timeoutSecs: number | null,
): AsyncGenerator<object> {
  const { pty } = start;
  const { cmd, args = [], envs = {}, cwd } = start.process;
  const request: StartCommandRequest = {
    args: [cmd, ...args],
    env: { ...(await environmentOf(memory, account, signal)), ...envs },
    cwd: cwd === undefined || cwd === '' ? account.home : absolutePath(cwd, account),
    user: account.name,
    ...(pty === undefined ? { stdin: start.stdin ?? true } : { pty: pty.size }),
    ...(timeoutSecs !== null && { timeout_secs: timeoutSecs }),
  };
  for await (const event of operations.startAndFollow(id, request, signal)) {
    if (event.type === 'started') {
      if (event.pid === 0) throw new ConnectError('invalid_argument', `There is no program '${cmd}' to run.`);
      memory.started(event.pid, { id: event.id, config: start.process, tag: start.tag });
      yield { event: { start: { pid: event.pid } } };
    } else yield eventOf(event, pty !== undefined);
  }
}

/** Follows a command from now on. */
async function* connected(parts: Parts, call: GuestCall, selector: Static<typeof Selector>): AsyncGenerator<object> {
  const { id, signal } = call;
  const command = await commandOf(parts, call, selector);
  const { pid, output_end: offset, pty } = await parts.operations.getCommand(id, command, signal);
  yield { event: { start: { pid } } };
  const events = parts.operations.followOutput(id, command, { offset, follow: true }, signal);
  for await (const event of events) yield eventOf(event, pty !== undefined);
}

function eventOf(event: CommandEvent, isTerminal: boolean): object {
  switch (event.type) {
    case 'stdout':
      return { event: { data: isTerminal ? { pty: event.data } : { stdout: event.data } } };
    case 'stderr':
      return { event: { data: { stderr: event.data } } };
    case 'exit':
      return { event: { end: endOf(event) } };
    case 'gap':
      throw new ConnectError(
        'data_loss',
        `Output was dropped: bytes ${event.from} to ${event.to} were not read in time.`,
      );
    default:
      throw new Error(`a command has the event ${event.type}`);
  }
}

function endOf(exit: Extract<CommandEvent, { type: 'exit' }>): object {
  if (exit.timed_out) throw new ConnectError('deadline_exceeded', 'The command was killed because its time was over.');
  if (exit.signal !== null) {
    const status = `signal: ${signalWords[exit.signal] ?? `SIG${exit.signal}`}`;
    return { exitCode: -1, exited: false, status, error: status };
  }
  const exitCode = exit.exit_code ?? 0;
  const status = `exit status ${exitCode}`;
  return { exitCode, exited: true, status, ...(exitCode !== 0 && { error: status }) };
}

/** Signals in the words of E2B's daemon. */
const signalWords: Readonly<Record<string, string>> = {
  KILL: 'killed',
  TERM: 'terminated',
  INT: 'interrupt',
  HUP: 'hangup',
  ABRT: 'aborted',
  SEGV: 'segmentation fault',
  PIPE: 'broken pipe',
};

async function write(
  { operations }: Parts,
  { id, signal }: GuestCall,
  command: string,
  { stdin, pty }: Static<typeof Input>,
): Promise<void> {
  const typed = pty ?? stdin;
  if (typed === undefined) throw new ConnectError('invalid_argument', 'The message has no input.');
  await operations.writeStdin(id, command, Buffer.from(typed, 'base64'), false, signal);
}

/** The id of a running command, by its process id or its tag. A command that was started in another way is found, too. */
async function commandOf(
  { operations }: Parts,
  { id, memory, signal }: GuestCall,
  { pid, tag }: Static<typeof Selector>,
): Promise<string> {
  const number = tag === undefined ? pid : memory.pidOfTag(tag);
  const known = number === undefined ? undefined : memory.command(number);
  if (known !== undefined) return known.id;
  const commands = number === undefined ? [] : await operations.listCommands(id, signal);
  const found = commands.findLast((command) => command.running && command.pid === number);
  if (found !== undefined) return found.id;
  throw new ConnectError('not_found', `There is no process ${tag === undefined ? String(pid) : `with tag '${tag}'`}.`);
}

/** The time that the caller gives the call, which is the time of its command. */
function timeoutSecsOf({ headers }: FastifyRequest): number | null {
  const ms = Number(headers['connect-timeout-ms']);
  return Number.isFinite(ms) && ms > 0 ? Math.min(ms / 1000, TIMEOUT_SECS_MAX) : null;
}
