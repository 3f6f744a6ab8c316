import type { CommandInfo, PtyControl, PtyNotice, PtySize } from '@forkd/api';
import type { ForkdClient } from './client.ts';
import { Commands, type CommandLine, type StartOptions } from './commands.ts';
import { ForkdError } from './errors.ts';
import type { WebSocketLike } from './fetch-types.ts';
import { callOptions, type RequestOptions } from './options.ts';

export type CreatePtyOptions = Omit<StartOptions, 'pty' | 'stdin' | 'onDisconnect'> & {
  /** Columns of the terminal. Default: 80. */
  cols?: number | undefined;
  /** Rows of the terminal. Default: 24. */
  rows?: number | undefined;
  /** The program on the terminal. Default: the user's shell, as a login. */
  command?: CommandLine | undefined;
};

export type ConnectPtyOptions = Pick<RequestOptions, 'signal'> & {
  /** Continue after a lost connection: the `offset` of the lost one. Default: begin with the screen as it is. */
  offset?: number | undefined;
};

/**
 * Bytes for the screen of a terminal. `screen` draws the whole screen; `skippedBytes` of output are left out for it, because this
 * connection was too slow for them. `output` is what the program has written, and begins at `offset`.
 */
export type PtyChunk =
  | { type: 'output'; offset: number; data: Uint8Array }
  | { type: 'screen'; offset: number; skippedBytes: number; data: Uint8Array };

/** Bytes that may be on their way to a reader who does not read. */
const WINDOW_BYTES = 512 * 1024;

/** The terminals of one sandbox. A terminal belongs to the guest: it outlives this connection and survives a fork. */
export class Ptys {
  readonly #client: ForkdClient;
  readonly #sandboxId: string;
  readonly #commands: Commands;

  constructor(client: ForkdClient, sandboxId: string) {
    this.#client = client;
    this.#sandboxId = sandboxId;
    this.#commands = new Commands(client, sandboxId);
  }

  /** Starts a program on a terminal and connects to it. */
  async create(options: CreatePtyOptions = {}): Promise<PtyHandle> {
    const { cols = 80, rows = 24, command = [], ...start } = options;
    const { id } = await this.#commands.start(command, { ...start, pty: { cols, rows } });
    return this.connect(id, { offset: 0, signal: options.signal });
  }

  /** Connects to the terminal of a command. Several connections may be open, and all of them may type. */
  async connect(commandId: string, { offset, signal }: ConnectPtyOptions = {}): Promise<PtyHandle> {
    // A failed WebSocket does not say why, and an ordinary request does.
    const info = await this.#client.getCommand(this.#sandboxId, commandId, { signal });
    if (info.pty === undefined) {
      throw new ForkdError('not_a_terminal', `Command ${commandId} in ${this.#sandboxId} has no terminal.`);
    }
    const query = { offset, window_bytes: WINDOW_BYTES };
    const socket = await this.#client.attachPty(this.#sandboxId, commandId, query, { signal });
    const handle = new PtyHandle(this, info, socket, offset);
    const onAbort = () => handle.disconnect();
    signal?.addEventListener('abort', onAbort, { once: true });
    await handle.opened.catch((error: unknown) => {
      throw signal?.aborted ? signal.reason : error;
    });
    return handle;
  }

  /** Lists the commands that have a terminal. */
  async list(options: RequestOptions = {}): Promise<CommandInfo[]> {
    const commands = await this.#commands.list(options);
    return commands.filter(({ pty }) => pty !== undefined);
  }

  /** Sets the size of a terminal. Programs in its foreground draw their screen again. */
  resize(commandId: string, size: PtySize, options: RequestOptions = {}): Promise<void> {
    return this.#client.resizePty(this.#sandboxId, commandId, size, callOptions(options));
  }

  /** Types into a terminal. */
  sendInput(commandId: string, data: string | Uint8Array, options: RequestOptions = {}): Promise<void> {
    return this.#commands.sendStdin(commandId, data, options);
  }

  /** Ends what runs on a terminal, and forgets it. False if there is none. */
  kill(commandId: string, options: RequestOptions = {}): Promise<boolean> {
    return this.#commands.kill(commandId, options);
  }
}

/** A connection to a terminal. Either iterate over it or call `wait`, and only once. What is not read is not sent for long. */
export class PtyHandle implements AsyncIterable<PtyChunk> {
  readonly id: string;
  readonly pid: number;
  /** Settles when the terminal is connected, or cannot be. */
  readonly opened: Promise<void>;
  #open: () => void = () => {};
  #fail: () => void = () => {};
  readonly #ptys: Ptys;
  readonly #socket: WebSocketLike;
  readonly #received: PtyChunk[] = [];
  #offset: number | undefined;
  #screen: { offset: number; skippedBytes: number } | undefined;
  #exit: { exitCode: number; signal: string | null; timedOut: boolean } | undefined;
  #failure: ForkdError | undefined;
  #isClosed = false;
  #isDisconnected = false;
  #wake: () => void = () => {};

  constructor(ptys: Ptys, { id, pid }: { id: string; pid: number }, socket: WebSocketLike, offset: number | undefined) {
    this.id = id;
    this.pid = pid;
    this.#ptys = ptys;
    this.#socket = socket;
    this.#offset = offset;
    this.opened = new Promise((resolve, reject) => {
      this.#open = resolve;
      this.#fail = () => reject(this.#lost());
    });
    this.opened.catch(() => {});
    socket.binaryType = 'arraybuffer';
    socket.addEventListener('message', ({ data }) => {
      if (typeof data === 'string') this.#notice(JSON.parse(data) as PtyNotice);
      else this.#bytes(new Uint8Array(data as ArrayBuffer));
      this.#wake();
    });
    // The close that follows says all that there is to say.
    socket.addEventListener('error', () => {});
    socket.addEventListener('close', () => {
      this.#isClosed = true;
      this.#fail();
      this.#wake();
    });
  }

  /** The exit of the program; undefined while it runs. */
  get exit(): { exitCode: number; signal: string | null; timedOut: boolean } | undefined {
    return this.#exit;
  }

  /** The offset of the output that was read so far, to connect again after a lost connection. */
  get offset(): number | undefined {
    return this.#offset;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<PtyChunk> {
    try {
      for (;;) {
        const chunk = this.#received.shift();
        if (chunk !== undefined) {
          this.#offset = chunk.type === 'output' ? chunk.offset + chunk.data.length : chunk.offset;
          yield chunk;
          this.#control({ type: 'ack', bytes: chunk.data.length });
        } else if (this.#exit !== undefined || this.#isDisconnected) {
          return;
        } else if (this.#isClosed) {
          throw this.#lost();
        } else {
          await this.#change();
        }
      }
    } finally {
      this.disconnect();
    }
  }

  /** Reads to the end of the program. A non-zero exit code is a result. */
  async wait(
    handlers: { onData?: ((data: Uint8Array) => void) | undefined } = {},
  ): Promise<{ exitCode: number | null; signal: string | null; timedOut: boolean }> {
    for await (const { data } of this) handlers.onData?.(data);
    return this.#exit ?? { exitCode: null, signal: null, timedOut: false };
  }

  /** Types into the terminal. */
  sendInput(data: string | Uint8Array): void {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data;
    for (let at = 0; at < bytes.length; at += INPUT_BYTES_MAX) this.#send(bytes.slice(at, at + INPUT_BYTES_MAX));
  }

  resize({ cols, rows }: PtySize): void {
    this.#control({ type: 'resize', cols, rows });
  }

  /** Sends a signal to the program in the foreground, by number, or by name with or without `SIG`. */
  signal(signal: string | number): void {
    this.#control({ type: 'signal', signal });
  }

  /** Ends the connection. The program continues. */
  disconnect(): void {
    this.#isDisconnected = true;
    this.#socket.close();
    this.#wake();
  }

  /** Ends the program, and forgets it. */
  kill(options: RequestOptions = {}): Promise<boolean> {
    return this.#ptys.kill(this.id, options);
  }

  #control(message: PtyControl): void {
    this.#send(JSON.stringify(message));
  }

  #send(data: string | Uint8Array): void {
    if (!this.#isClosed && !this.#isDisconnected) this.#socket.send(data as string | Uint8Array<ArrayBuffer>);
  }

  #notice(notice: PtyNotice): void {
    if (notice.type === 'attached') {
      this.#open();
    } else if (notice.type === 'screen') {
      this.#screen = { offset: notice.offset, skippedBytes: notice.skipped_bytes };
    } else if (notice.type === 'output') {
      this.#screen = undefined;
      this.#next = notice.offset;
    } else if (notice.type === 'exit') {
      this.#exit = { exitCode: notice.exit_code, signal: notice.signal, timedOut: notice.timed_out };
    } else {
      this.#failure = new ForkdError(notice.code, notice.error, { hint: notice.hint });
    }
  }

  /** The offset of the next byte of output that comes. */
  #next = 0;

  #bytes(data: Uint8Array): void {
    if (this.#screen !== undefined) {
      this.#received.push({ type: 'screen', ...this.#screen, data });
      // Only the first part of a screen stands for what was left out.
      this.#screen = { ...this.#screen, skippedBytes: 0 };
      return;
    }
    this.#received.push({ type: 'output', offset: this.#next, data });
    this.#next += data.length;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => (this.#wake = resolve));
  }

  #lost(): ForkdError {
    return (
      this.#failure ??
      new ForkdError('stream_cut', `Terminal ${this.id}: the connection was lost.`, {
        hint: 'The program may still run. Connect to its terminal again.',
      })
    );
  }
}

/** Length of one message of input. */
const INPUT_BYTES_MAX = 32 * 1024;
