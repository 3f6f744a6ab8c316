import type { CommandEvent, CommandInfo, PtySize, StartCommandRequest } from '@forkd/api';
import { bytesOfBase64 } from './bytes.ts';
import type { ForkdClient } from './client.ts';
import { CollectedOutput } from './collected.ts';
import { errorFromEvent, ForkdError, isForkdError } from './errors.ts';
import { callOptions, type RequestOptions } from './options.ts';
import type { RequestBody } from './transport.ts';

/** A program with its arguments, or a line for the guest's `/bin/sh`. */
export type CommandLine = readonly string[] | string;

export type StartOptions = RequestOptions & {
  env?: Record<string, string> | undefined;
  cwd?: string | undefined;
  user?: string | undefined;
  /** Give the command a terminal of this size. `sandbox.pty` connects to it. */
  pty?: PtySize | undefined;
  /** Give the command a pipe as stdin, for `sendStdin`. */
  stdin?: boolean | undefined;
  /** The time limit of the command, in milliseconds, enforced in the guest. Output until then is kept. Default: none. */
  timeoutMs?: number | undefined;
  /** Applies to `follow`: the fate of the command if this process or its connection ends first. Default: `continue`. */
  onDisconnect?: 'continue' | 'kill' | undefined;
};

export type StdinOptions = RequestOptions & { close?: boolean | undefined };

export interface OutputHandlers {
  onStdout?: ((chunk: Uint8Array) => void) | undefined;
  onStderr?: ((chunk: Uint8Array) => void) | undefined;
}

export interface CommandResult {
  stdout: string;
  stderr: string;
  /** 128 + the signal if a signal ended the command; null if the stream did not report an exit code. */
  exitCode: number | null;
  /** The name of the signal, without SIG. */
  signal: string | null;
  timedOut: boolean;
  /** Output is missing in `stdout` or `stderr`: see the counts below. The handlers still received all but the lost bytes. */
  truncated: boolean;
  /** Bytes beyond the first 64 MiB of a stream, which are not kept. */
  stdoutDroppedBytes: number;
  stderrDroppedBytes: number;
  /** Bytes of output that the ring buffer had already overwritten when they were requested. */
  lostBytes: number;
}

/** A chunk of output with its offset, or a gap that the ring buffer has overwritten. */
export type OutputChunk =
  | { type: 'stdout' | 'stderr'; offset: number; data: Uint8Array }
  | { type: 'gap'; from: number; to: number };

/** The commands of one sandbox. A command belongs to the guest: it outlives this connection and survives a fork. */
export class Commands {
  readonly #client: ForkdClient;
  readonly #sandboxId: string;

  constructor(client: ForkdClient, sandboxId: string) {
    this.#client = client;
    this.#sandboxId = sandboxId;
  }

  /**
   * Runs a command to its end and forgets it. A non-zero exit code is a result, not an error; so is `timedOut`.
   * `requestTimeoutMs` bounds the whole call; default: no limit.
   */
  async run(command: CommandLine, options: StartOptions & OutputHandlers = {}): Promise<CommandResult> {
    const handle = await this.follow(command, { ...options, onDisconnect: 'kill' });
    try {
      return await handle.wait(options);
    } finally {
      await this.kill(handle.id);
    }
  }

  /** Starts a command and follows its output. See `onDisconnect` for a reader that stops; `kill` ends and forgets it. */
  async follow(command: CommandLine, options: StartOptions = {}): Promise<CommandHandle> {
    const request = startRequest(command, options);
    const events = this.#client.startCommandEvents(this.#sandboxId, request, callOptions(options));
    const first = await events.next();
    if (!first.done && first.value.type === 'error') throw errorFromEvent(first.value);
    if (first.done || first.value.type !== 'started') {
      throw new ForkdError('bad_response', `Command in ${this.#sandboxId}: the stream does not begin with its start.`);
    }
    return new CommandHandle(this.#client, this.#sandboxId, first.value, events);
  }

  /** Starts a command and returns. The command keeps running by itself. */
  start(command: CommandLine, options: StartOptions = {}): Promise<CommandInfo> {
    return this.#client.startCommand(this.#sandboxId, startRequest(command, options), callOptions(options));
  }

  /** Lists commands that run, and commands that ended and were not forgotten. */
  list(options: RequestOptions = {}): Promise<CommandInfo[]> {
    return this.#client.listCommands(this.#sandboxId, callOptions(options));
  }

  /** Follows the output of a running or ended command from `offset` (default 0). */
  async attach(
    commandId: string,
    options: { offset?: number | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<CommandHandle> {
    const { offset = 0, signal } = options;
    const info = await this.#client.getCommand(this.#sandboxId, commandId, { signal });
    const events = this.#client.commandOutput(this.#sandboxId, commandId, { offset, follow: true }, { signal });
    return new CommandHandle(this.#client, this.#sandboxId, info, events);
  }

  /** Writes to the stdin of a command that was started with `stdin`. `close` closes it after the data. */
  sendStdin(commandId: string, data: RequestBody, options: StdinOptions = {}): Promise<void> {
    const query = options.close === undefined ? {} : { close: options.close };
    return this.#client.writeCommandStdin(this.#sandboxId, commandId, data, query, callOptions(options));
  }

  /** Sends a signal, given by number, or by name with or without `SIG`. */
  signal(commandId: string, signal: string | number, options: RequestOptions = {}): Promise<void> {
    return this.#client.signalCommand(this.#sandboxId, commandId, signal, callOptions(options));
  }

  /** Ends the command if it runs, and forgets it. False if the command or its sandbox does not exist. */
  async kill(commandId: string, options: RequestOptions = {}): Promise<boolean> {
    try {
      await this.#client.deleteCommand(this.#sandboxId, commandId, callOptions(options));
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_command', 'not_found_sandbox', 'sandbox_ended')) return false;
      throw error;
    }
  }
}

/** A command whose output is followed. Either iterate over the output or call `wait`, and only once. */
export class CommandHandle implements AsyncIterable<OutputChunk> {
  readonly id: string;
  readonly pid: number;
  readonly #commands: Commands;
  readonly #events: AsyncGenerator<CommandEvent>;
  #exit: { exitCode: number | null; signal: string | null; timedOut: boolean } | undefined;

  constructor(
    client: ForkdClient,
    sandboxId: string,
    command: { id: string; pid: number },
    events: AsyncGenerator<CommandEvent>,
  ) {
    this.id = command.id;
    this.pid = command.pid;
    this.#commands = new Commands(client, sandboxId);
    this.#events = events;
  }

  /** The exit of the command; undefined while the command runs. */
  get exit(): { exitCode: number | null; signal: string | null; timedOut: boolean } | undefined {
    return this.#exit;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<OutputChunk> {
    for await (const event of this.#events) {
      if (event.type === 'stdout' || event.type === 'stderr') {
        yield { type: event.type, offset: event.offset, data: bytesOfBase64(event.data) };
      } else if (event.type === 'gap') {
        yield event;
      } else if (event.type === 'exit') {
        this.#exit = { exitCode: event.exit_code, signal: event.signal, timedOut: event.timed_out };
      } else if (event.type === 'error') {
        throw errorFromEvent(event);
      }
    }
    if (this.#exit === undefined) {
      throw new ForkdError('stream_cut', `Command ${this.id}: its output ended before the command did.`, {
        hint: 'The command may still run. Attach to it again from where its output ended.',
      });
    }
  }

  async wait(handlers: OutputHandlers = {}): Promise<CommandResult> {
    const stdout = new CollectedOutput();
    const stderr = new CollectedOutput();
    let lostBytes = 0;
    for await (const chunk of this) {
      if (chunk.type === 'gap') {
        lostBytes += chunk.to - chunk.from;
      } else if (chunk.type === 'stdout') {
        stdout.add(chunk.data);
        handlers.onStdout?.(chunk.data);
      } else {
        stderr.add(chunk.data);
        handlers.onStderr?.(chunk.data);
      }
    }
    const { exitCode = null, signal = null, timedOut = false } = this.#exit ?? {};
    return {
      stdout: stdout.text(),
      stderr: stderr.text(),
      exitCode,
      signal,
      timedOut,
      truncated: stdout.droppedBytes + stderr.droppedBytes + lostBytes > 0,
      stdoutDroppedBytes: stdout.droppedBytes,
      stderrDroppedBytes: stderr.droppedBytes,
      lostBytes,
    };
  }

  sendStdin(data: RequestBody, options: StdinOptions = {}): Promise<void> {
    return this.#commands.sendStdin(this.id, data, options);
  }

  signal(signal: string | number, options: RequestOptions = {}): Promise<void> {
    return this.#commands.signal(this.id, signal, options);
  }

  kill(options: RequestOptions = {}): Promise<boolean> {
    return this.#commands.kill(this.id, options);
  }
}

function startRequest(command: CommandLine, options: StartOptions): StartCommandRequest {
  const request: StartCommandRequest = {
    args: typeof command === 'string' ? ['/bin/sh', '-c', command] : [...command],
  };
  if (options.env !== undefined) request.env = options.env;
  if (options.cwd !== undefined) request.cwd = options.cwd;
  if (options.user !== undefined) request.user = options.user;
  if (options.stdin !== undefined) request.stdin = options.stdin;
  if (options.pty !== undefined) request.pty = options.pty;
  if (options.onDisconnect !== undefined) request.on_disconnect = options.onDisconnect;
  if (options.timeoutMs !== undefined) request.timeout_secs = options.timeoutMs / 1000;
  return request;
}
