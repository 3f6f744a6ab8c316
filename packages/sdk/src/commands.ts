import type { CommandEvent, CommandInfo, StartCommandRequest } from '@forkd/api';
import { bytesOfBase64, concatBytes, textOf } from './bytes.ts';
import type { ForkdClient } from './client.ts';
import { errorFromEvent, ForkdError, isForkdError } from './errors.ts';
import { callOptions, type RequestOptions } from './options.ts';
import type { RequestBody } from './transport.ts';

/** A program with its arguments, or a line for the guest's own `/bin/sh`. */
export type CommandLine = readonly string[] | string;

export type StartOptions = RequestOptions & {
  env?: Record<string, string> | undefined;
  cwd?: string | undefined;
  user?: string | undefined;
  /** Give the command a pipe as stdin, to be fed with `sendStdin`. */
  stdin?: boolean | undefined;
  /** The command's own time, in milliseconds, kept in the guest; what it printed until then is kept. Default: none. */
  timeoutMs?: number | undefined;
};

export type StdinOptions = RequestOptions & { close?: boolean | undefined };

export type OutputHandlers = {
  onStdout?: ((chunk: Uint8Array) => void) | undefined;
  onStderr?: ((chunk: Uint8Array) => void) | undefined;
};

export type CommandResult = {
  stdout: string;
  stderr: string;
  /** 128 + the signal where one ended it; null when the stream could not tell. */
  exitCode: number | null;
  /** Its name without SIG. */
  signal: string | null;
  timedOut: boolean;
  /** Bytes of output that the ring no longer held when they were asked for. */
  lostBytes: number;
};

/** What a handle yields: output with its place, or a hole where the ring had moved on. */
export type OutputChunk =
  | { type: 'stdout' | 'stderr'; offset: number; data: Uint8Array }
  | { type: 'gap'; from: number; to: number };

/** The commands of one sandbox. A command's session is the guest's: it outlives this connection, and a fork. */
export class Commands {
  readonly #client: ForkdClient;
  readonly #sandboxId: string;

  constructor(client: ForkdClient, sandboxId: string) {
    this.#client = client;
    this.#sandboxId = sandboxId;
  }

  /**
   * Runs it to its end and forgets it. An exit code that is not 0 is a result, not an error; so is `timedOut`.
   * `requestTimeoutMs` is for all of it; default: no limit.
   */
  async run(command: CommandLine, options: StartOptions & OutputHandlers = {}): Promise<CommandResult> {
    const handle = await this.#follow(command, options);
    try {
      return await handle.wait(options);
    } finally {
      await this.kill(handle.id);
    }
  }

  /** Starts it and returns; the command runs on by itself. */
  start(command: CommandLine, options: StartOptions = {}): Promise<CommandInfo> {
    return this.#client.startCommand(this.#sandboxId, startRequest(command, options), callOptions(options));
  }

  /** Those that run, and those that ended and were not forgotten. */
  list(options: RequestOptions = {}): Promise<CommandInfo[]> {
    return this.#client.listCommands(this.#sandboxId, callOptions(options));
  }

  /** Takes up the output of a command that runs or ran, from `offset` (default 0). */
  async attach(
    commandId: string,
    options: { offset?: number | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<CommandHandle> {
    const { offset = 0, signal } = options;
    const info = await this.#client.getCommand(this.#sandboxId, commandId, { signal });
    const events = this.#client.commandOutput(this.#sandboxId, commandId, { offset, follow: true }, { signal });
    return new CommandHandle(this.#client, this.#sandboxId, info, events);
  }

  /** For a command that was started with `stdin`. `close` ends its input behind the data. */
  sendStdin(commandId: string, data: RequestBody, options: StdinOptions = {}): Promise<void> {
    const query = options.close === undefined ? {} : { close: options.close };
    return this.#client.writeCommandStdin(this.#sandboxId, commandId, data, query, callOptions(options));
  }

  /** By number, or by name with or without `SIG`. */
  signal(commandId: string, signal: string | number, options: RequestOptions = {}): Promise<void> {
    return this.#client.signalCommand(this.#sandboxId, commandId, signal, callOptions(options));
  }

  /** Ends it if it runs, and forgets it. False when there was no such command. */
  async kill(commandId: string, options: RequestOptions = {}): Promise<boolean> {
    try {
      await this.#client.deleteCommand(this.#sandboxId, commandId, callOptions(options));
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_command') || isForkdError(error, 'not_found_sandbox')) return false;
      throw error;
    }
  }

  async #follow(command: CommandLine, options: StartOptions): Promise<CommandHandle> {
    const request = startRequest(command, options);
    const events = this.#client.startCommandEvents(this.#sandboxId, request, callOptions(options));
    const first = await events.next();
    if (!first.done && first.value.type === 'error') throw errorFromEvent(first.value);
    if (first.done || first.value.type !== 'started') {
      throw new ForkdError('bad_response', `command in ${this.#sandboxId}: the stream does not begin with its start`);
    }
    return new CommandHandle(this.#client, this.#sandboxId, first.value, events);
  }
}

/** One command, followed. Iterate over its output, or `wait` for its end: one of the two, once. */
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

  /** How it ended; undefined while it runs. */
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
      throw new ForkdError('stream_cut', `command ${this.id}: its output ended before the command did`, {
        hint: 'it may still run: attach to it again from where its output ended',
      });
    }
  }

  async wait(handlers: OutputHandlers = {}): Promise<CommandResult> {
    const stdout: Uint8Array[] = [];
    const stderr: Uint8Array[] = [];
    let lostBytes = 0;
    for await (const chunk of this) {
      if (chunk.type === 'gap') {
        lostBytes += chunk.to - chunk.from;
      } else if (chunk.type === 'stdout') {
        stdout.push(chunk.data);
        handlers.onStdout?.(chunk.data);
      } else {
        stderr.push(chunk.data);
        handlers.onStderr?.(chunk.data);
      }
    }
    const { exitCode = null, signal = null, timedOut = false } = this.#exit ?? {};
    return { stdout: text(stdout), stderr: text(stderr), exitCode, signal, timedOut, lostBytes };
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
  if (options.timeoutMs !== undefined) request.timeout_secs = options.timeoutMs / 1000;
  return request;
}

function text(chunks: readonly Uint8Array[]): string {
  return textOf(concatBytes(chunks));
}
