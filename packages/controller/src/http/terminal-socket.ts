import { ApiError, PtyControl, type PtyNotice, type PtyQuery } from '@forkd/api';
import { turns } from '@forkd/guest';
import { Compile } from 'typebox/compile';
import type { RawData, WebSocket } from 'ws';
import { toApiError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Terminal } from '../operations/terminal.ts';

/** Close codes of WebSockets. */
const closeCodes = { done: 1000, leaving: 1001, badMessage: 1008, failed: 1011 } as const;

const control = Compile(PtyControl);

/** Carries a terminal over a WebSocket: binary messages are bytes, text messages are JSON. Resolves when it has closed. */
export async function serveTerminal(socket: WebSocket, terminal: Terminal, query: PtyQuery): Promise<void> {
  const link = new ViewerLink(socket, query.window_bytes);
  const input = new Input(socket, terminal, link);
  socket.on('message', (data, isBinary) => input.receive(data, isBinary));
  try {
    await sendView(link, terminal, query.offset);
  } catch (error) {
    if (!link.isClosed) link.fail(await terminal.explain(error));
  } finally {
    await link.closed();
  }
}

async function sendView(link: ViewerLink, { info, view }: Terminal, offset: number | undefined): Promise<void> {
  const { id, pid, pty } = info;
  link.tell({ type: 'attached', id, pid, cols: pty?.cols ?? 80, rows: pty?.rows ?? 24 });
  let position = offset;
  let drawn: number | undefined;
  let isOutput = false;
  let count = 0;
  for await (const events of view) {
    for (const { type, offset: at, data } of events) {
      if (type === 'screen' && drawn !== at) {
        link.tell({ type: 'screen', offset: at, skipped_bytes: position === undefined ? 0 : at - position });
        [drawn, isOutput] = [at, false];
      } else if (type === 'output' && !isOutput) {
        link.tell({ type: 'output', offset: at });
        [drawn, isOutput] = [undefined, true];
      }
      position = type === 'screen' ? at : at + data.length;
      if (!(await link.send(data))) return;
      count += 1;
      if (count % limits.viewerEventsPerTurn === 0) await turns.next();
    }
  }
  const { exit } = view;
  if (exit === undefined) return;
  link.tell({ type: 'exit', exit_code: exit.exitCode, signal: exit.signal ?? null, timed_out: exit.timedOut });
  link.close(closeCodes.done);
}

/** The way to a viewer. It takes no more than the viewer reads, and ends when the viewer reads nothing for long. */
class ViewerLink {
  readonly #socket: WebSocket;
  readonly #windowBytes: number;
  readonly #closed: Promise<void>;
  #isClosed = false;
  #unacknowledgedBytes = 0;
  #onRoom: () => void = () => undefined;
  #movedMs = performance.now();

  constructor(socket: WebSocket, windowBytes: number | undefined) {
    this.#socket = socket;
    this.#windowBytes = windowBytes ?? Infinity;
    const beat = setInterval(() => this.#look(), limits.viewerBeatMs);
    this.#closed = new Promise((resolve) => {
      socket.once('close', () => {
        clearInterval(beat);
        this.#isClosed = true;
        this.#onRoom();
        resolve();
      });
    });
    socket.on('error', () => undefined);
    socket.on('pong', () => this.moved());
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Resolves when the connection has closed. */
  closed(): Promise<void> {
    return this.#closed;
  }

  /** Notes that the viewer is there. */
  moved(): void {
    this.#movedMs = performance.now();
  }

  tell(notice: PtyNotice): void {
    if (!this.#isClosed) this.#socket.send(JSON.stringify(notice));
  }

  /** Sends bytes once the viewer has room for them. Resolves when they are on their way; to `false` if it has left. */
  async send(data: Uint8Array): Promise<boolean> {
    while (
      !this.#isClosed &&
      this.#unacknowledgedBytes > 0 &&
      this.#unacknowledgedBytes + data.length > this.#windowBytes
    ) {
      await new Promise<void>((resolve) => (this.#onRoom = resolve));
    }
    if (this.#isClosed) return false;
    this.#unacknowledgedBytes += data.length;
    const gone = this.#closed.then(() => undefined);
    await Promise.race([new Promise<void>((resolve) => this.#socket.send(data, () => resolve())), gone]);
    this.moved();
    return !this.#isClosed;
  }

  acknowledge(bytes: number): void {
    this.#unacknowledgedBytes = Math.max(0, this.#unacknowledgedBytes - bytes);
    this.#onRoom();
  }

  /** Tells the reason, and closes. */
  fail(
    failure: ApiError,
    code: number = failure.code === 'shutting_down' ? closeCodes.leaving : closeCodes.failed,
  ): void {
    const { error, code: word, hint } = failure.toBody();
    this.tell({ type: 'error', error, code: word, ...(hint !== undefined && { hint }) });
    this.close(code);
  }

  /** Closes; a viewer that does not answer the close is cut off. */
  close(code: number): void {
    if (this.#isClosed) return;
    this.#socket.close(code);
    const cut = setTimeout(() => this.#socket.terminate(), limits.viewerCloseMs);
    this.#closed.finally(() => clearTimeout(cut)).catch(() => undefined);
  }

  #look(): void {
    if (performance.now() - this.#movedMs > limits.viewerSilentMs) this.#socket.terminate();
    else this.#socket.ping();
  }
}

/** Messages of a viewer. What it types waits for the terminal; while much waits, the viewer is not read. */
class Input {
  readonly #socket: WebSocket;
  readonly #terminal: Terminal;
  readonly #link: ViewerLink;
  #typed: Buffer[] = [];
  #typedBytes = 0;
  #isTyping = false;
  #controls: Promise<void> = Promise.resolve();
  #controlsWaiting = 0;

  constructor(socket: WebSocket, terminal: Terminal, link: ViewerLink) {
    this.#socket = socket;
    this.#terminal = terminal;
    this.#link = link;
  }

  receive(data: RawData, isBinary: boolean): void {
    this.#link.moved();
    const bytes = Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data as Buffer);
    if (isBinary) this.#type(bytes);
    else this.#control(bytes.toString('utf8'));
    this.#hold();
  }

  #type(bytes: Buffer): void {
    this.#typed.push(bytes);
    this.#typedBytes += bytes.length;
    if (this.#isTyping) return;
    this.#isTyping = true;
    this.#drain().catch((error: unknown) => this.#failed(error));
  }

  async #drain(): Promise<void> {
    try {
      while (this.#typedBytes > 0) {
        const bytes = Buffer.concat(this.#typed);
        this.#typed = [];
        await this.#terminal.write(bytes);
        this.#typedBytes -= bytes.length;
        this.#hold();
      }
    } finally {
      this.#isTyping = false;
    }
  }

  #control(text: string): void {
    const message = parsed(text);
    if (message === undefined) {
      const failure = new ApiError('bad_request', 'A text message to a terminal is not one of resize, signal and ack.');
      this.#link.fail(failure, closeCodes.badMessage);
      return;
    }
    if (message.type === 'ack') {
      this.#link.acknowledge(message.bytes);
      return;
    }
    this.#controlsWaiting += 1;
    const work = () =>
      message.type === 'resize' ? this.#terminal.resize(message) : this.#terminal.signal(message.signal);
    this.#controls = this.#controls
      .then(work)
      .catch((error: unknown) => this.#failed(error))
      .finally(() => {
        this.#controlsWaiting -= 1;
        this.#hold();
      });
  }

  /** A command that has ended takes nothing more. The view tells of its end. */
  #failed(error: unknown): void {
    const failure = toApiError(error);
    if (failure.code === 'command_ended' || failure.code === 'not_found_command') return;
    this.#link.fail(failure, failure.class === 'user' ? closeCodes.badMessage : closeCodes.failed);
  }

  #hold(): void {
    if (this.#link.isClosed) return;
    const isMuch = this.#typedBytes > limits.viewerTypedBytesMax || this.#controlsWaiting > limits.viewerControlsMax;
    if (isMuch) this.#socket.pause();
    else if (this.#socket.isPaused) this.#socket.resume();
  }
}

function parsed(text: string): PtyControl | undefined {
  try {
    const message: unknown = JSON.parse(text);
    return control.Check(message) ? message : undefined;
  } catch {
    return undefined;
  }
}
