import type {
  CommandEvent,
  CommandInfo,
  CommandOutputQuery,
  DirEntry,
  EvalRequest,
  EvalResponse,
  ExecRequest,
  ExecResponse,
  FileQuery,
  PingResponse,
  StartCommandRequest,
} from '@forkd/api';
import { ApiError, limits as apiLimits } from '@forkd/api';
import type { Bytes, CommandOutput, FileContents, GuestAgent } from '@forkd/guest';
import type * as guest from '@forkd/guest';

import { anySignal } from '../deadline.ts';
import { toApiError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Metrics } from '../observe/metrics.ts';
import { traced } from '../observe/tracing.ts';
import { guestFailure } from './guest-errors.ts';
import type { Registry } from './registry.ts';
import type { Sandbox } from './sandbox.ts';

/** What is done inside of sandboxes: commands, evaluations, files. */
export class Guests {
  readonly #registry: Registry;
  readonly #metrics: Metrics | undefined;

  constructor(registry: Registry, metrics?: Metrics) {
    this.#registry = registry;
    this.#metrics = metrics;
  }

  async ping(id: string, outer: AbortSignal): Promise<PingResponse> {
    const { sandbox, signal } = this.#open(id, outer);
    const options = { timeoutMs: limits.pingTimeoutMs, signal };
    const pong = await sandbox.guest.call((agent) => agent.ping(options), { signal, repeatable: true });
    const more = { agent_version: pong.version, generation: pong.generation, uptime_ms: pong.uptimeMs };
    return { pong: true, pid: pong.pid, ...more };
  }

  /** Runs a command to its end. Its own time over, it is killed, and the error carries what it had printed. */
  async exec(id: string, request: ExecRequest, outer: AbortSignal): Promise<ExecResponse> {
    const timeoutSecs = request.timeout_secs ?? apiLimits.execTimeoutSecsDefault;
    const { stdin: input, ...command } = request;
    const options = {
      ...commandOptions({ ...command, timeout_secs: timeoutSecs }),
      keepBytesMax: apiLimits.execOutputBytesMax,
      timeoutMs: timeoutSecs * 1000 + limits.guestGraceMs,
      ...(input != null && { stdin: Buffer.from(input, 'base64') }),
    };
    const { sandbox, signal } = this.#open(id, outer);
    sandbox.execCount += 1;
    const beganMs = performance.now();
    // What is run may hold secrets: the span says only where.
    const result = await traced('exec', { 'forkd.sandbox': sandbox.id }, () =>
      sandbox.guest.call((agent) => runOnce(agent, request.args, { ...options, signal }), { signal }),
    );
    this.#metrics?.executed(performance.now() - beganMs);
    const stdout = textOf(result.stdout);
    const stderr = textOf(result.stderr);
    if (result.timedOut) {
      const sentence = `Sandbox ${id}: ${request.args[0]} did not end within ${timeoutSecs} s and was killed.`;
      throw new ApiError('command_timeout', sentence, { details: { stdout, stderr } });
    }
    return { stdout, stderr, exit_code: result.exitCode };
  }

  async eval(id: string, request: EvalRequest, outer: AbortSignal): Promise<EvalResponse> {
    const { sandbox, signal } = this.#open(id, outer);
    sandbox.execCount += 1;
    const timeoutSecs = request.timeout_secs ?? apiLimits.evalTimeoutSecsDefault;
    const evalTimeoutMs = timeoutSecs * 1000;
    const options = { evalTimeoutMs, timeoutMs: evalTimeoutMs + limits.guestGraceMs, signal };
    const result = await sandbox.guest.call((agent) => agent.eval(request.code, options), { signal });
    const { stdout, stderr, exitCode } = result;
    if (result.timedOut) {
      const sentence = `Sandbox ${id}: the evaluation did not end within ${timeoutSecs} s and was interrupted.`;
      throw new ApiError('command_timeout', sentence, { details: { stdout, stderr, state_lost: result.stateLost } });
    }
    return { result: result.result ?? null, error: result.error ?? null, exit_code: exitCode, stdout, stderr };
  }

  async start(id: string, request: StartCommandRequest, outer: AbortSignal): Promise<CommandInfo> {
    const { sandbox, signal } = this.#open(id, outer);
    sandbox.execCount += 1;
    return sandbox.guest.call(
      async (agent) => {
        const started = await agent.start(request.args, { ...startOptions(request), signal });
        return infoOf(await agent.get(started.id, { signal }));
      },
      { signal },
    );
  }

  /** Starts a command and follows it. The command goes on when the caller leaves. */
  async *startAndFollow(id: string, request: StartCommandRequest, outer: AbortSignal): AsyncGenerator<CommandEvent> {
    const { sandbox, signal } = this.#open(id, outer);
    sandbox.execCount += 1;
    const begin = (agent: GuestAgent) => agent.exec(request.args, { ...startOptions(request), signal });
    const output = await sandbox.guest.call(begin, { signal });
    yield { type: 'started', id: output.id, pid: output.pid ?? 0 };
    yield* eventsOf(sandbox, output, signal);
  }

  async list(id: string, outer: AbortSignal): Promise<CommandInfo[]> {
    const { sandbox, signal } = this.#open(id, outer);
    return sandbox.guest.call(async (agent) => (await agent.list({ signal })).map(infoOf), {
      signal,
      repeatable: true,
    });
  }

  async get(id: string, commandId: string, outer: AbortSignal): Promise<CommandInfo> {
    const { sandbox, signal } = this.#open(id, outer);
    const call = async (agent: GuestAgent) => infoOf(await agent.get(commandId, { signal }));
    return sandbox.guest.call(call, { signal, repeatable: true });
  }

  /** The output of a command that runs or ran, from an offset on. */
  async *output(
    id: string,
    commandId: string,
    query: CommandOutputQuery,
    outer: AbortSignal,
  ): AsyncGenerator<CommandEvent> {
    const { sandbox, signal } = this.#open(id, outer);
    const options = { offset: query.offset ?? 0, follow: query.follow ?? false, signal };
    const attach = (agent: GuestAgent) => agent.attach(commandId, options);
    const output = await sandbox.guest.call(attach, { signal, repeatable: true });
    yield* eventsOf(sandbox, output, signal);
  }

  async writeStdin(id: string, commandId: string, data: Bytes, close: boolean, outer: AbortSignal): Promise<void> {
    const { sandbox, signal } = this.#open(id, outer);
    await sandbox.guest.call((agent) => agent.writeStdin(commandId, data, { close, signal }), { signal });
  }

  async signal(id: string, commandId: string, name: string | number, outer: AbortSignal): Promise<void> {
    const { sandbox, signal } = this.#open(id, outer);
    const running = await sandbox.guest.call((agent) => agent.signal(commandId, name, { signal }), { signal });
    if (running) return;
    throw new ApiError('command_ended', `Sandbox ${id}: command ${commandId} does not run any more.`);
  }

  async forget(id: string, commandId: string, outer: AbortSignal): Promise<void> {
    const { sandbox, signal } = this.#open(id, outer);
    if (await sandbox.guest.call((agent) => agent.forget(commandId, { signal }), { signal })) return;
    throw new ApiError('not_found_command', `Sandbox ${id} has no command ${commandId}.`);
  }

  async readFile(id: string, path: string, outer: AbortSignal): Promise<FileContents> {
    const { sandbox, signal } = this.#open(id, outer);
    return sandbox.guest.call((agent) => agent.readFile(path, { signal }), { signal, repeatable: true });
  }

  async writeFile(id: string, query: FileQuery, data: Bytes, outer: AbortSignal): Promise<void> {
    const { sandbox, signal } = this.#open(id, outer);
    const mode = query.mode === undefined ? {} : { mode: parseInt(query.mode, 8) };
    await sandbox.guest.call((agent) => agent.writeFile(query.path, data, { ...mode, signal }), { signal });
  }

  async removeFile(id: string, path: string, recursive: boolean, outer: AbortSignal): Promise<void> {
    const { sandbox, signal } = this.#open(id, outer);
    if (await sandbox.guest.call((agent) => agent.remove(path, { recursive, signal }), { signal })) return;
    throw new ApiError('not_found_file', `Sandbox ${id} has no file ${path}.`);
  }

  async listDir(id: string, path: string, outer: AbortSignal): Promise<DirEntry[]> {
    const { sandbox, signal } = this.#open(id, outer);
    const entries = await sandbox.guest.call((agent) => agent.listDir(path, { signal }), { signal, repeatable: true });
    return entries.map(({ name, type, sizeBytes, mode, mtimeUnix }) => {
      return { name, type, size: sizeBytes, mode: mode.toString(8).padStart(4, '0'), mtime_unix: mtimeUnix };
    });
  }

  #open(id: string, outer: AbortSignal): { sandbox: Sandbox; signal: AbortSignal } {
    const sandbox = this.#registry.running(id);
    return { sandbox, signal: anySignal(outer, sandbox.ended.signal) };
  }
}

/** The reply carries all that the command printed: nobody will ask for it again. */
async function runOnce(
  agent: GuestAgent,
  args: readonly string[],
  options: guest.RunOptions,
): Promise<guest.RunResult> {
  const result = await agent.run(args, options);
  await agent.forget(result.id, { timeoutMs: limits.guestRequestTimeoutMs });
  return result;
}

function commandOptions(request: Omit<StartCommandRequest, 'stdin'>): guest.CommandOptions {
  const { env, cwd, user, timeout_secs: timeoutSecs } = request;
  return {
    ...(env != null && { env }),
    ...(cwd != null && { cwd }),
    ...(user != null && { user }),
    ...(timeoutSecs != null && { commandTimeoutMs: Math.ceil(timeoutSecs * 1000) }),
  };
}

function startOptions(request: StartCommandRequest): guest.StartOptions {
  return { ...commandOptions(request), stdin: request.stdin === true };
}

/** A stream whose reader has left, or whose guest is lost, ends with an error event: its status line is long gone. */
async function* eventsOf(sandbox: Sandbox, output: CommandOutput, signal: AbortSignal): AsyncGenerator<CommandEvent> {
  try {
    for await (const event of output) {
      if (event.stream === 'gap') yield { type: 'gap', from: event.from, to: event.to };
      else yield { type: event.stream, offset: event.offset, data: Buffer.from(event.data).toString('base64') };
    }
  } catch (error) {
    throw signal.aborted ? toApiError(signal.reason) : guestFailure(sandbox.id, error);
  }
  const { exit } = output;
  if (exit === undefined) return;
  const { exitCode, timedOut } = exit;
  yield { type: 'exit', exit_code: exitCode, signal: exit.signal ?? null, timed_out: timedOut };
}

function infoOf(info: guest.CommandInfo): CommandInfo {
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
  };
}

/** Bytes that are no UTF-8 become replacement characters; who wants the bytes streams the command. */
function textOf(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
}
