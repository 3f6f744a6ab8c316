import { randomInt } from 'node:crypto';
import { connect as connectSocket, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { disconnected, GuestError } from './errors.ts';
import { encodeFrame, FrameDecoder, frameKind, type Frame } from './frame.ts';
import { Intake } from './intake.ts';
import { FRAME_PAYLOAD_BYTES_MAX, OPEN_RETRY_MS_MAX, OPEN_RETRY_MS_MIN, SOCKET_RETRY_MS } from './limits.ts';
import { turns } from './turns.ts';

/** DATA begins with a sequence number: a frame that got lost ends the connection instead of leaving a hole in it. */
const SEQUENCE_BYTES = 4;
const NEWLINE = 0x0a;
/** Every reply of a VMM to `CONNECT` is shorter. */
const LINE_BYTES_MAX = 32;
const dataBytesMax = FRAME_PAYLOAD_BYTES_MAX - SEQUENCE_BYTES;

/**
 * Opens a connection to the agent. Steps: 1. a lone delimiter, which ends a message that an earlier host left unfinished; 2.
 * OPEN with a new random id, repeated until 3. OPEN_ACK; 4. numbered DATA both ways, while all other frames are dropped; 5.
 * CLOSE from either side, or the end of the socket.
 */
export async function openChannel(
  socketPath: string,
  vsockPort: number | undefined,
  signal: AbortSignal,
): Promise<Channel> {
  const socket = await reach(socketPath, vsockPort, signal);
  const channel = new Channel(socket);
  try {
    await channel.open(signal);
    return channel;
  } catch (error) {
    channel.destroy();
    throw error;
  }
}

/** Connects, waiting for a socket that is not there or not listening yet: a VMM that is starting has none. */
async function reach(socketPath: string, vsockPort: number | undefined, signal: AbortSignal): Promise<Socket> {
  let last: unknown;
  while (!signal.aborted) {
    const socket = connectSocket(socketPath);
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve).once('error', reject);
      });
      if (vsockPort === undefined || (await askForPort(socket, vsockPort, signal))) return socket;
      last = new Error(`nobody in the guest listens on port ${vsockPort}`);
      socket.destroy();
    } catch (error) {
      last = error;
      socket.destroy();
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOENT' && code !== 'ECONNREFUSED') {
        throw new GuestError('guest_disconnected', `The socket ${socketPath} refuses the connection.`, {
          cause: error,
        });
      }
    }
    await sleep(SOCKET_RETRY_MS);
  }
  const reason = signal.reason as GuestError;
  throw new GuestError(reason.code, `${reason.message} No connection to ${socketPath} was possible.`, { cause: last });
}

/**
 * The first line of a connection that leads into a guest's vsock. `false` when the VMM hangs up instead of answering: the guest does not
 * listen yet.
 */
async function askForPort(socket: Socket, port: number, signal: AbortSignal): Promise<boolean> {
  const abort = () => socket.destroy();
  // The caller may have given up while the connection was made: that is not told again.
  if (signal.aborted) return false;
  signal.addEventListener('abort', abort, { once: true });
  try {
    socket.write(`CONNECT ${port}\n`);
    return /^OK \d+$/.test(await readLine(socket));
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/** Reads exactly one line. Resolves to an empty text if there is none. */
function readLine(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    let line = '';
    const done = (text: string): void => {
      socket.off('readable', read).off('close', hungUp).off('end', hungUp).off('error', hungUp);
      resolve(text);
    };
    const hungUp = (): void => done('');
    const read = (): void => {
      for (;;) {
        const byte = socket.read(1) as Buffer | null;
        if (byte === null) return;
        if (byte[0] === NEWLINE) return done(line);
        line += byte.toString('latin1');
        if (line.length > LINE_BYTES_MAX) return done('');
      }
    };
    socket.on('readable', read).once('close', hungUp).once('end', hungUp).once('error', hungUp);
  });
}

/** A connection with the agent, to which its user says what of it was asked for. */
export class Channel extends Duplex {
  readonly intake = new Intake();
  readonly #socket: Socket;
  readonly #id = randomInt(1, 2 ** 32);
  readonly #decoder = new FrameDecoder();
  #received = 0;
  #sent = 0;
  #onOpened: (() => void) | undefined;
  /** The reader has taken what there was. */
  #isWanted = true;
  /** The guest has had its share for now. */
  #isHeld = false;

  constructor(socket: Socket) {
    super();
    this.#socket = socket;
    socket.on('data', (bytes: Buffer) => this.#take(bytes));
    socket.on('error', (error) => this.destroy(disconnected(error)));
    socket.on('close', () => this.destroy(disconnected()));
  }

  /** Repeats OPEN until the agent has acknowledged it. */
  async open(signal: AbortSignal): Promise<void> {
    let retry: NodeJS.Timeout | undefined;
    let onAbort: (() => void) | undefined;
    let onClose: (() => void) | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        onAbort = () => reject(signal.reason as Error);
        onClose = () => reject(this.errored ?? disconnected());
        this.#onOpened = resolve;
        if (signal.aborted) return onAbort();
        signal.addEventListener('abort', onAbort);
        this.once('close', onClose);
        this.once('error', () => {});
        let wait = OPEN_RETRY_MS_MIN;
        const ask = (): void => {
          // The socket still has bytes to send, so nothing is added to them.
          if (this.#socket.writableLength === 0) {
            this.#socket.write(Buffer.concat([Buffer.of(0), encodeFrame(frameKind.open, this.#id)]));
          }
          retry = setTimeout(ask, wait);
          wait = Math.min(wait * 2, OPEN_RETRY_MS_MAX);
        };
        ask();
      });
    } finally {
      clearTimeout(retry);
      if (onAbort) signal.removeEventListener('abort', onAbort);
      if (onClose) this.off('close', onClose);
      this.#onOpened = undefined;
    }
  }

  #take(bytes: Buffer): void {
    if (this.destroyed) return;
    const pauseMs = this.intake.take(bytes.length, turns.isCrowded);
    if (this.intake.isFlooded) {
      this.#socket.destroy();
      this.destroy(disconnected(new Error('the guest sent more than was asked of it')));
      return;
    }
    if (pauseMs !== undefined) this.#hold(pauseMs).catch((error: unknown) => this.destroy(error as Error));
    for (const frame of this.#decoder.push(bytes)) {
      if (this.destroyed) return;
      if (frame.connection === this.#id) this.#receive(frame);
    }
  }

  #receive(frame: Frame): void {
    switch (frame.kind) {
      case frameKind.openAck:
        this.#onOpened?.();
        return;
      case frameKind.close:
        this.destroy(disconnected());
        return;
      case frameKind.data:
        this.#receiveData(frame.payload);
        return;
      default:
    }
  }

  #receiveData(payload: Uint8Array): void {
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    if (payload.length < SEQUENCE_BYTES || view.getUint32(0, true) !== this.#received) {
      this.destroy(disconnected(new Error('a frame was lost on the way')));
      return;
    }
    this.#received = (this.#received + 1) >>> 0;
    if (this.push(payload.subarray(SEQUENCE_BYTES))) return;
    this.#isWanted = false;
    this.#flow();
  }

  override _read(): void {
    this.#isWanted = true;
    this.#flow();
  }

  /** Reads nothing for a time; 0: until others have had their turn. */
  async #hold(ms: number): Promise<void> {
    this.#isHeld = true;
    this.#flow();
    await (ms === 0 ? turns.next() : sleep(ms));
    this.#isHeld = false;
    this.#flow();
  }

  #flow(): void {
    if (this.destroyed || (this.#isWanted && !this.#isHeld)) this.#socket.resume();
    else this.#socket.pause();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#send(chunk, done);
  }

  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.#send(Buffer.concat(chunks.map(({ chunk }) => chunk)), done);
  }

  /** `done` comes when the socket has passed everything on, so that the writer waits for the guest. */
  #send(bytes: Buffer, done: (error?: Error | null) => void): void {
    const frames: Buffer[] = [];
    for (let from = 0; from < bytes.length; from += dataBytesMax) {
      const sequence = Buffer.allocUnsafe(SEQUENCE_BYTES);
      sequence.writeUInt32LE(this.#sent);
      this.#sent = (this.#sent + 1) >>> 0;
      frames.push(encodeFrame(frameKind.data, this.#id, sequence, bytes.subarray(from, from + dataBytesMax)));
    }
    this.#socket.write(frames.length === 1 ? frames[0]! : Buffer.concat(frames), done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(encodeFrame(frameKind.close, this.#id), () => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    // The agent is told, where it still can be: it then stops waiting for this connection's readers.
    if (!this.#socket.destroyed && this.#socket.writable) {
      this.#socket.write(encodeFrame(frameKind.close, this.#id), () => this.#socket.destroy());
      setTimeout(() => this.#socket.destroy(), 100).unref();
    } else {
      this.#socket.destroy();
    }
    this.#socket.resume();
    done(error);
  }
}
