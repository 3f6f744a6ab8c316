import {
  ApiError,
  type CommandEvent,
  type CommandInfo,
  type CommandOutputQuery,
  type StartCommandRequest,
} from '@forkd/api';
import { anySignal } from '@forkd/engine';
import type { Bytes, CommandOutput, GuestAgent } from '@forkd/guest';
import type * as guest from '@forkd/guest';
import { toApiError } from '../errors.ts';
import type { LargeReply } from '../large-reply.ts';
import { limits } from '../limits.ts';
import { guestFailure } from '../state/guest-errors.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { waitForReason } from '../state/vm-end.ts';
import { listAs, openGuest, type GuestHost } from './guest-replies.ts';

/** Starts a command in a sandbox. */
export async function startCommand(
  host: GuestHost,
  id: string,
  request: StartCommandRequest,
  outer: AbortSignal,
): Promise<CommandInfo> {
  const { sandbox, signal } = openGuest(host, id, outer);
  sandbox.execCount += 1;
  return sandbox.guest.call(
    async (agent) => {
      const started = await agent.start(request.args, { ...startOptions(request), signal });
      return infoOf(await agent.get(started.id, { signal }));
    },
    { signal },
  );
}

/** Starts a command and follows its output. The command continues after the caller has left, unless the request says otherwise. */
export async function* startAndFollow(
  host: GuestHost,
  id: string,
  request: StartCommandRequest,
  outer: AbortSignal,
): AsyncGenerator<CommandEvent> {
  const { sandbox, signal } = openGuest(host, id, outer);
  sandbox.execCount += 1;
  const begin = (agent: GuestAgent) => agent.exec(request.args, { ...startOptions(request), signal });
  const output = await sandbox.guest.call(begin, { signal });
  try {
    yield { type: 'started', id: output.id, pid: output.pid ?? 0 };
    yield* eventsOf(sandbox, output, signal);
  } finally {
    if (request.on_disconnect === 'kill' && output.exit === undefined) await killAbandoned(sandbox, output.id);
  }
}

/** Kills a command whose caller has left. The guest may be lost too, and then the command is. */
async function killAbandoned({ guest, ended }: Sandbox, commandId: string): Promise<void> {
  const signal = anySignal(ended.signal, AbortSignal.timeout(limits.abandonedKillMs));
  await guest.call((agent) => agent.forget(commandId, { signal }), { signal }).catch(() => undefined);
}

export async function listCommands(
  host: GuestHost,
  id: string,
  outer: AbortSignal,
): Promise<CommandInfo[] | LargeReply> {
  const { sandbox, signal } = openGuest(host, id, outer);
  return listAs(host, sandbox, signal, (agent, list, budget) =>
    agent.list((info) => list.add(infoOf(info)), { signal, budget }),
  );
}

export async function getCommand(
  host: GuestHost,
  id: string,
  commandId: string,
  outer: AbortSignal,
): Promise<CommandInfo> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const call = async (agent: GuestAgent) => infoOf(await agent.get(commandId, { signal }));
  return sandbox.guest.call(call, { signal, repeatable: true });
}

/** The output of a command that runs or ran, from an offset on. */
export async function* followOutput(
  host: GuestHost,
  id: string,
  commandId: string,
  query: CommandOutputQuery,
  outer: AbortSignal,
): AsyncGenerator<CommandEvent> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const options = { offset: query.offset ?? 0, follow: query.follow ?? false, signal };
  const attach = (agent: GuestAgent) => agent.attach(commandId, options);
  const output = await sandbox.guest.call(attach, { signal, repeatable: true });
  yield* eventsOf(sandbox, output, signal);
}

export async function writeStdin(
  host: GuestHost,
  id: string,
  commandId: string,
  data: Bytes,
  close: boolean,
  outer: AbortSignal,
): Promise<void> {
  const { sandbox, signal } = openGuest(host, id, outer);
  await sandbox.guest.call((agent) => agent.writeStdin(commandId, data, { close, signal }), { signal });
}

export async function signalCommand(
  host: GuestHost,
  id: string,
  commandId: string,
  name: string | number,
  outer: AbortSignal,
): Promise<void> {
  const { sandbox, signal } = openGuest(host, id, outer);
  const running = await sandbox.guest.call((agent) => agent.signal(commandId, name, { signal }), { signal });
  if (running) return;
  throw new ApiError('command_ended', `Sandbox ${id}: command ${commandId} does not run any more.`);
}

export async function forgetCommand(host: GuestHost, id: string, commandId: string, outer: AbortSignal): Promise<void> {
  const { sandbox, signal } = openGuest(host, id, outer);
  if (await sandbox.guest.call((agent) => agent.forget(commandId, { signal }), { signal })) return;
  throw new ApiError('not_found_command', `Sandbox ${id} has no command ${commandId}.`);
}

/** The options of a command as the agent takes them. */
export function commandOptions(request: Omit<StartCommandRequest, 'stdin'>): guest.CommandOptions {
  const { env, cwd, user, timeout_secs: timeoutSecs } = request;
  return {
    ...(env != null && { env }),
    ...(cwd != null && { cwd }),
    ...(user != null && { user }),
    ...(timeoutSecs != null && { commandTimeoutMs: Math.ceil(timeoutSecs * 1000) }),
  };
}

function startOptions(request: StartCommandRequest): guest.StartOptions {
  return { ...commandOptions(request), stdin: request.stdin === true, pty: request.pty };
}

/** The output of a command as events. Throws when the caller leaves or the guest is lost. */
async function* eventsOf(sandbox: Sandbox, output: CommandOutput, signal: AbortSignal): AsyncGenerator<CommandEvent> {
  try {
    for await (const event of output) {
      if (event.stream === 'gap') yield { type: 'gap', from: event.from, to: event.to };
      else yield { type: event.stream, offset: event.offset, data: Buffer.from(event.data).toString('base64') };
    }
  } catch (error) {
    if (!signal.aborted) await waitForReason(signal);
    throw signal.aborted ? toApiError(signal.reason) : guestFailure(sandbox.id, error);
  }
  const { exit } = output;
  if (exit === undefined) return;
  const { exitCode, timedOut } = exit;
  yield { type: 'exit', exit_code: exitCode, signal: exit.signal ?? null, timed_out: timedOut };
}

export function infoOf(info: guest.CommandInfo): CommandInfo {
  return {
    id: info.id,
    pid: info.pid ?? 0,
    args: info.args,
    running: info.running,
    exit_code: info.exitCode ?? null,
    signal: info.signal ?? null,
    timed_out: info.timedOut,
    output_start: info.outputStart,
    output_end: info.outputEnd,
    started_unix_ms: info.startedUnixMs,
    ...(info.pty !== undefined && { pty: info.pty }),
  };
}
