import type { Duplex } from 'node:stream';
import type * as request from './agent-wire.ts';
import { openChannel } from './channel.ts';
import { GuestError, type GuestErrorCode } from './errors.ts';
import { Http, type Bytes } from './http.ts';
import { COMMANDS_MAX, CONNECT_TIMEOUT_MS_DEFAULT, DIRECTORY_ENTRIES_MAX } from './limits.ts';
import { CommandOutput } from './output.ts';
import { PtyView } from './pty-view.ts';
import { refreshOf, type Refresh } from './refresh.ts';
import { collect } from './run.ts';
import type * as types from './types.ts';
import { Deadline, type WaitOptions } from './wait.ts';
import { changesOf } from './watch.ts';
import * as wire from './wire.ts';
import { replies } from './wire.ts';

export interface ConnectOptions extends WaitOptions {
  /** Where the socket leads to all of a guest's vsock: the agent's port there. */
  vsockPort?: number | undefined;
}

/**
 * A connection to the agent of one guest. When the connection ends, every pending call throws `guest_disconnected`. Commands in
 * the guest continue, and the next connection finds them. Calls may run side by side.
 */
export class GuestAgent implements AsyncDisposable {
  readonly #http: Http;

  private constructor(http: Http) {
    this.#http = http;
  }

  /** Connects to the agent behind a unix socket, waiting for a guest that is still booting. 30 s unless told otherwise. */
  static async connect(socketPath: string, options: ConnectOptions = {}): Promise<GuestAgent> {
    const deadline = new Deadline('The connection to the guest agent', options, CONNECT_TIMEOUT_MS_DEFAULT);
    try {
      return new GuestAgent(new Http(await openChannel(socketPath, options.vsockPort, deadline.signal)));
    } finally {
      deadline.release();
    }
  }

  /** Fulfilled when the connection has ended, however it did. */
  get closed(): Promise<void> {
    return this.#http.closed;
  }

  /** Ends the connection. Commands continue. */
  async close(): Promise<void> {
    this.#http.close();
    await this.#http.closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async ping(wait?: WaitOptions): Promise<types.Ping> {
    return wire.pingOf(await this.#http.json('GET', '/v1/ping', replies.ping, { wait }));
  }

  /** Sets the defaults of later commands, as a whole. */
  async configure(config: types.GuestConfig, wait?: WaitOptions): Promise<void> {
    const json: request.Config = config;
    await this.#http.json('PUT', '/v1/config', replies.nothing, { json, wait });
  }

  /** Gives the guest an identity: entropy, clock, names; warm interpreters are reseeded. */
  async identify(identity: types.Identity, wait?: WaitOptions): Promise<types.Identified> {
    const json = wire.identityRequest(identity);
    return this.#http.json('POST', '/v1/identity', replies.identified, { json, wait });
  }

  /** Sets the wall clock of a guest, which stood still while the guest was paused. */
  async setClock(wallClockUnixNs: bigint, wait?: WaitOptions): Promise<void> {
    const json: request.ClockRequest = { wall_clock_unix_ns: wallClockUnixNs.toString() };
    await this.#http.json('PUT', '/v1/clock', replies.nothing, { json, wait });
  }

  /** Gets the changes that the host must make in the memory of each child before its first instruction. */
  async refresh(wait?: WaitOptions): Promise<Refresh> {
    return refreshOf(await this.#http.json('GET', '/v1/refresh', replies.refresh, { wait }));
  }

  /** Makes all programs stand still: in this guest until {@link thaw}, in its children until they have an identity. */
  async freeze(wait?: WaitOptions): Promise<void> {
    await this.#http.json('POST', '/v1/freeze', replies.nothing, { wait });
  }

  /** Thaws the programs of the guest. Resolves to `false` if they were not frozen any more. */
  async thaw(wait?: WaitOptions): Promise<boolean> {
    return (await this.#http.json('POST', '/v1/thaw', replies.thawed, { wait })).was_frozen;
  }

  async identity(wait?: WaitOptions): Promise<types.CurrentIdentity> {
    return wire.identityOf(await this.#http.json('GET', '/v1/identity', replies.identity, { wait }));
  }

  /** Runs a command to its end and gives its output. Ended early (abort, timeoutMs), the command is killed and forgotten. */
  async run(args: readonly string[], options: types.RunOptions = {}): Promise<types.RunResult> {
    const { stdin, keepBytesMax: _max, budget: _budget, onOutput: _onOutput, ...rest } = options;
    const output = await this.exec(args, { ...rest, stdin: stdin !== undefined });
    try {
      const feeding = stdin === undefined ? undefined : this.#feed(output.id, stdin);
      return await collect(output, options, feeding);
    } catch (error) {
      await this.forget(output.id).catch(() => {});
      throw error;
    }
  }

  /** A command that does not read its input to the end is no error of the one who runs it. */
  async #feed(id: string, stdin: Bytes | string): Promise<void> {
    const data = typeof stdin === 'string' ? Buffer.from(stdin) : stdin;
    try {
      await this.writeStdin(id, data, { close: true });
    } catch (error) {
      const harmless =
        error instanceof GuestError && (error.code === 'stdin_closed' || error.code === 'unknown_command');
      if (!harmless) throw error;
    }
  }

  /** Starts a command and follows it, in one round trip. */
  async exec(args: readonly string[], options: types.StartOptions = {}): Promise<CommandOutput> {
    const json = wire.commandRequest(args, options);
    const request = { query: { follow: true }, json, wait: options, bounded: 'head' } as const;
    const answer = await this.#http.request('POST', '/v1/commands', request);
    return CommandOutput.started(answer.chunks());
  }

  /** Starts a command that nobody follows: its latest output is kept for `attach`. */
  async start(args: readonly string[], options: types.StartOptions = {}): Promise<types.Started> {
    const json = wire.commandRequest(args, options);
    const started = await this.#http.json('POST', '/v1/commands', replies.started, { json, wait: options });
    return { id: started.id, pid: started.pid ?? undefined };
  }

  /** The commands that run, and the latest that have ended, oldest first: `take` gets them one by one, as they come. */
  async list(take: (command: types.CommandInfo) => void, wait: types.ListOptions = {}): Promise<void> {
    const each = (command: wire.ReplyOf<'command'>) => take(wire.commandOf(command));
    const options = { wait, budget: wait.budget };
    await this.#http.items('/v1/commands', replies.commands, COMMANDS_MAX, each, options);
  }

  async get(id: string, wait?: WaitOptions): Promise<types.CommandInfo> {
    return wire.commandOf(await this.#http.json('GET', commandPath(id), replies.command, { wait }));
  }

  /** Output from an offset on (0 unless given). `follow: false`: only what is there, and the exit where there is one. */
  async attach(id: string, options: WaitOptions & { offset?: number; follow?: boolean } = {}): Promise<CommandOutput> {
    const query = { offset: options.offset, follow: options.follow ?? true };
    const request = { query, wait: options, bounded: 'head' } as const;
    const answer = await this.#http.request('GET', `${commandPath(id)}/output`, request);
    return CommandOutput.attached(answer.chunks(), id);
  }

  /**
   * Views the terminal of a command: from an offset on, or its screen and what comes then. A viewer does not hold the
   * terminal up. For what it is too slow to read it gets the screen.
   */
  async view(id: string, options: WaitOptions & { offset?: number | undefined } = {}): Promise<PtyView> {
    const query = { offset: options.offset, follow: true, view: true };
    const answer = await this.#http.request('GET', `${commandPath(id)}/output`, {
      query,
      wait: options,
      bounded: 'head',
    });
    return new PtyView(answer.chunks(), options.offset);
  }

  /** Sets the size of a command's terminal. `false` where the command has ended. */
  async resize(id: string, size: types.PtySize, wait?: WaitOptions): Promise<boolean> {
    const json: request.PtySize = size;
    return unlessCode('not_running', this.#http.json('PUT', `${commandPath(id)}/pty`, replies.nothing, { json, wait }));
  }

  /** Writes to a command's input, as fast as it reads. `close`: that was all. */
  async writeStdin(id: string, data: Bytes, options: WaitOptions & { close?: boolean } = {}): Promise<void> {
    const request = { query: { close: options.close }, body: data, wait: options, bounded: 'open' } as const;
    await this.#http.json('POST', `${commandPath(id)}/stdin`, replies.nothing, request);
  }

  /** Sends a signal (name or number) to a command's process group. `false` where it has ended. */
  async signal(id: string, signal: string | number, wait?: WaitOptions): Promise<boolean> {
    const json: request.SignalRequest = { signal };
    const path = `${commandPath(id)}/signal`;
    return unlessCode('not_running', this.#http.json('POST', path, replies.nothing, { json, wait }));
  }

  /** Kills a command where it runs, and forgets its output. `false` where there is none. */
  async forget(id: string, wait?: WaitOptions): Promise<boolean> {
    return unlessCode('unknown_command', this.#http.json('DELETE', commandPath(id), replies.nothing, { wait }));
  }

  /** A file's bytes, as they come. They must be read, or the loop over them left. */
  async readFile(path: string, wait?: WaitOptions): Promise<types.FileContents> {
    const answer = await this.#http.request('GET', '/v1/files', { query: { path }, wait, bounded: 'transfer' });
    try {
      const { 'x-mode': mode, 'content-length': length } = replies.file.check(answer.headers);
      const sizeBytes = length === undefined ? undefined : Number(length);
      return { sizeBytes, mode: parseInt(mode, 8), data: answer.chunks() };
    } catch (error) {
      answer.cancel();
      throw error;
    }
  }

  /**
   * Writes a file whole or not at all; missing folders are made. A new file has mode 0644 unless another is given. What is new
   * belongs to `user`, or to root. A file that is replaced keeps its owner, its mode and its links; only regular files can be
   * replaced.
   */
  async writeFile(path: string, data: Bytes, options: WaitOptions & types.NewFileOptions = {}): Promise<void> {
    const query = { path, mode: options.mode?.toString(8), user: options.user };
    const request = { query, body: data, wait: options, bounded: 'transfer' } as const;
    await this.#http.json('PUT', '/v1/files', replies.nothing, request);
  }

  /** Lists a directory. `take` receives each entry as it arrives. */
  async listDir(
    path: string,
    take: (entry: types.DirectoryEntry) => void,
    wait: types.ListOptions = {},
  ): Promise<void> {
    const each = (entry: wire.ReplyOf<'directory'>) => take(wire.entryOf(entry));
    const options = { query: { path }, wait, budget: wait.budget };
    await this.#http.items('/v1/dir', replies.directory, DIRECTORY_ENTRIES_MAX, each, options);
  }

  /** Describes what is at a path. `follow`: behind symbolic links, instead of the link itself. */
  async stat(path: string, options: WaitOptions & { follow?: boolean } = {}): Promise<types.FileStat> {
    const query = { path, follow: options.follow };
    return wire.statOf(await this.#http.json('GET', '/v1/stat', replies.stat, { query, wait: options }));
  }

  /** Makes a directory and those that lead to it, unless it exists. Mode 0755 and owner root unless given. */
  async makeDir(path: string, options: WaitOptions & types.NewFileOptions = {}): Promise<void> {
    const query = { path, mode: options.mode?.toString(8), user: options.user };
    await this.#http.json('PUT', '/v1/dir', replies.nothing, { query, wait: options });
  }

  /** Renames a file or a folder. A file in the new place is replaced. */
  async rename(path: string, to: string, wait?: WaitOptions): Promise<void> {
    await this.#http.json('POST', '/v1/rename', replies.nothing, { query: { path, to }, wait });
  }

  /** Removes a file or an empty folder; with `recursive` a folder and what is in it. `false` where there is none. */
  async remove(path: string, options: WaitOptions & { recursive?: boolean } = {}): Promise<boolean> {
    const query = { path, recursive: options.recursive };
    return unlessCode('not_found', this.#http.json('DELETE', '/v1/files', replies.nothing, { query, wait: options }));
  }

  /**
   * Watches a file or a directory; with `recursive` also the directories in it. What happens once this resolves is in the
   * changes. They must be read, or the loop over them left. They end when the watched path itself is gone.
   */
  async watch(
    path: string,
    options: WaitOptions & { recursive?: boolean } = {},
  ): Promise<AsyncGenerator<types.FileChange>> {
    const query = { path, recursive: options.recursive };
    const answer = await this.#http.request('GET', '/v1/watch', { query, wait: options, bounded: 'head' });
    return changesOf(answer.chunks(), answer.status);
  }

  /** Connects to a program that listens on a TCP port, also on loopback only. @throws GuestError `port_unreachable` */
  async connectPort(port: number, wait?: WaitOptions): Promise<Duplex> {
    const answer = await this.#http.request('POST', `/v1/ports/${port}`, { body: 'tunnel', wait, bounded: 'head' });
    return answer.tunnel();
  }

  /** Evaluates code in the warm interpreter, which keeps its state. What the code does wrong is in the result. */
  async eval(code: string, options: types.EvalOptions = {}): Promise<types.EvalResult> {
    const { language, evalTimeoutMs } = options;
    const json: wire.Sent<request.EvalRequest> = { code, language, timeout_ms: evalTimeoutMs };
    // An evaluation without a time of its own takes as long as its code.
    const request = { json, wait: options, budget: options.budget, bounded: 'open' } as const;
    return wire.evalOf(await this.#http.json('POST', '/v1/eval', replies.evaluation, request));
  }

  /** Warms an interpreter before its first use. */
  async startInterpreter(language = 'python', wait?: WaitOptions): Promise<void> {
    const json: request.InterpreterRequest = { language };
    await this.#http.json('POST', '/v1/interpreters', replies.nothing, { json, wait });
  }

  /** Ends the language's interpreter and its state, also in the middle of an evaluation. The next one starts afresh. */
  async stopInterpreter(language = 'python', wait?: WaitOptions): Promise<void> {
    await this.#http.json('DELETE', `/v1/interpreters/${encodeURIComponent(language)}`, replies.nothing, { wait });
  }
}

function commandPath(id: string): string {
  return `/v1/commands/${encodeURIComponent(id)}`;
}

/** `false` where there was nothing to do, which the agent says with this code. */
async function unlessCode(code: GuestErrorCode, call: Promise<unknown>): Promise<boolean> {
  try {
    await call;
    return true;
  } catch (error) {
    if (error instanceof GuestError && error.code === code) return false;
    throw error;
  }
}
