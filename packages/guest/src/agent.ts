import { openChannel } from './channel.ts';
import { GuestError } from './errors.ts';
import { Http, type Bytes } from './http.ts';
import { connectTimeoutMsDefault } from './limits.ts';
import { CommandOutput } from './output.ts';
import { collect } from './run.ts';
import type * as types from './types.ts';
import { Deadline, type WaitOptions } from './wait.ts';
import * as wire from './wire.ts';

export interface ConnectOptions extends WaitOptions {
  /** Where the socket leads to all of a guest's vsock: the agent's port there. */
  vsockPort?: number | undefined;
}

/**
 * A connection with the agent of one guest. When it ends everything pending on it throws `guest_disconnected`; what the guest runs goes on, and is
 * there for the next connection. Calls may run side by side.
 */
export class GuestAgent implements AsyncDisposable {
  readonly #http: Http;

  private constructor(http: Http) {
    this.#http = http;
  }

  /** Connects to the agent behind a unix socket, waiting for a guest that is still booting. 30 s unless told otherwise. */
  static async connect(socketPath: string, options: ConnectOptions = {}): Promise<GuestAgent> {
    const deadline = new Deadline('connecting to the guest agent', options, connectTimeoutMsDefault);
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

  /** Ends the connection; commands go on. */
  async close(): Promise<void> {
    this.#http.close();
    await this.#http.closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async ping(wait?: WaitOptions): Promise<types.Ping> {
    return wire.pingOf((await this.#http.json('GET', '/v1/ping', { wait })) as wire.WirePing);
  }

  /** Sets the defaults of later commands, as a whole. */
  async configure(config: types.GuestConfig, wait?: WaitOptions): Promise<void> {
    await this.#http.json('PUT', '/v1/config', { json: config, wait });
  }

  /** Gives the guest an identity: entropy, clock, names; warm interpreters are reseeded. */
  async identify(identity: types.Identity, wait?: WaitOptions): Promise<types.Identified> {
    const json = wire.identityRequest(identity);
    return (await this.#http.json('POST', '/v1/identity', { json, wait })) as types.Identified;
  }

  async identity(wait?: WaitOptions): Promise<types.CurrentIdentity> {
    return wire.identityOf((await this.#http.json('GET', '/v1/identity', { wait })) as wire.WireIdentity);
  }

  /** Runs a command to its end and gives its output. Ended early (abort, timeoutMs), the command is killed and forgotten. */
  async run(args: readonly string[], options: types.RunOptions = {}): Promise<types.RunResult> {
    const { stdin, keepBytesMax, ...rest } = options;
    const output = await this.exec(args, { ...rest, stdin: stdin !== undefined });
    try {
      const feeding = stdin === undefined ? undefined : this.#feed(output.id, stdin);
      return await collect(output, keepBytesMax, feeding);
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
    const request = { query: { follow: true }, json, wait: options, unbounded: true };
    const answer = await this.#http.request('POST', '/v1/commands', request);
    return CommandOutput.started(answer.chunks());
  }

  /** Starts a command that nobody follows: its latest output is kept for `attach`. */
  async start(args: readonly string[], options: types.StartOptions = {}): Promise<types.Started> {
    const json = wire.commandRequest(args, options);
    const started = (await this.#http.json('POST', '/v1/commands', { json, wait: options })) as wire.WireCommand;
    return { id: started.id, pid: started.pid ?? undefined };
  }

  /** The commands that run, and the latest that have ended, oldest first. */
  async list(wait?: WaitOptions): Promise<types.CommandInfo[]> {
    const commands = (await this.#http.json('GET', '/v1/commands', { wait })) as wire.WireCommand[];
    return commands.map(wire.commandOf);
  }

  async get(id: string, wait?: WaitOptions): Promise<types.CommandInfo> {
    return wire.commandOf((await this.#http.json('GET', commandPath(id), { wait })) as wire.WireCommand);
  }

  /** Output from an offset on (0 unless given). `follow: false`: only what is there, and the exit where there is one. */
  async attach(id: string, options: WaitOptions & { offset?: number; follow?: boolean } = {}): Promise<CommandOutput> {
    const query = { offset: options.offset, follow: options.follow ?? true };
    const request = { query, wait: options, unbounded: true };
    const answer = await this.#http.request('GET', `${commandPath(id)}/output`, request);
    return CommandOutput.attached(answer.chunks(), id);
  }

  /** Writes to a command's input, as fast as it reads. `close`: that was all. */
  async writeStdin(id: string, data: Bytes, options: WaitOptions & { close?: boolean } = {}): Promise<void> {
    const request = { query: { close: options.close }, body: data, wait: options, unbounded: true };
    await this.#http.json('POST', `${commandPath(id)}/stdin`, request);
  }

  /** Sends a signal (name or number) to a command's process group. `false` where it has ended. */
  async signal(id: string, signal: string | number, wait?: WaitOptions): Promise<boolean> {
    return unlessCode('not_running', this.#http.json('POST', `${commandPath(id)}/signal`, { json: { signal }, wait }));
  }

  /** Kills a command where it runs, and forgets its output. `false` where there is none. */
  async forget(id: string, wait?: WaitOptions): Promise<boolean> {
    return unlessCode('unknown_command', this.#http.json('DELETE', commandPath(id), { wait }));
  }

  /** A file's bytes, as they come. They must be read, or the loop over them left. */
  async readFile(path: string, wait?: WaitOptions): Promise<types.FileContents> {
    const answer = await this.#http.request('GET', '/v1/files', { query: { path }, wait, unbounded: true });
    const length = answer.headers['content-length'];
    return {
      sizeBytes: length === undefined ? undefined : Number(length),
      mode: parseInt(String(answer.headers['x-mode']), 8),
      data: answer.chunks(),
    };
  }

  /** Writes a file whole or not at all; missing folders are made. Mode 0644 unless given. */
  async writeFile(path: string, data: Bytes, options: WaitOptions & { mode?: number } = {}): Promise<void> {
    const query = { path, mode: options.mode?.toString(8) };
    await this.#http.json('PUT', '/v1/files', { query, body: data, wait: options, unbounded: true });
  }

  async listDir(path: string, wait?: WaitOptions): Promise<types.DirectoryEntry[]> {
    const entries = (await this.#http.json('GET', '/v1/dir', { query: { path }, wait })) as wire.WireEntry[];
    return entries.map(wire.entryOf);
  }

  /** Removes a file or an empty folder; with `recursive` a folder and what is in it. `false` where there is none. */
  async remove(path: string, options: WaitOptions & { recursive?: boolean } = {}): Promise<boolean> {
    const query = { path, recursive: options.recursive };
    return unlessCode('not_found', this.#http.json('DELETE', '/v1/files', { query, wait: options }));
  }

  /** Evaluates code in the warm interpreter, which keeps its state. What the code does wrong is in the result. */
  async eval(code: string, options: types.EvalOptions = {}): Promise<types.EvalResult> {
    const json = { code, language: options.language, timeout_ms: options.evalTimeoutMs };
    const request = { json, wait: options, unbounded: true };
    return wire.evalOf((await this.#http.json('POST', '/v1/eval', request)) as wire.WireEval);
  }

  /** Warms an interpreter before its first use. */
  async startInterpreter(language = 'python', wait?: WaitOptions): Promise<void> {
    await this.#http.json('POST', '/v1/interpreters', { json: { language }, wait });
  }

  /** Ends the language's interpreter and its state, also in the middle of an evaluation. The next one starts afresh. */
  async stopInterpreter(language = 'python', wait?: WaitOptions): Promise<void> {
    await this.#http.json('DELETE', `/v1/interpreters/${encodeURIComponent(language)}`, { wait });
  }
}

function commandPath(id: string): string {
  return `/v1/commands/${encodeURIComponent(id)}`;
}

/** `false` where there was nothing to do, which the agent says with this code. */
async function unlessCode(code: string, call: Promise<unknown>): Promise<boolean> {
  try {
    await call;
    return true;
  } catch (error) {
    if (error instanceof GuestError && error.code === code) return false;
    throw error;
  }
}
