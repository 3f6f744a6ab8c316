import { connect, type Socket } from 'node:net';
import { EngineError, type EngineErrorCode } from '../errors.ts';
import { onLine } from '../lines.ts';
import { type DaemonKind, titleOf } from './kind.ts';

/** How long a daemon may take to answer its first request. */
const HELLO_TIMEOUT_MS = 5_000;

/** The messages of a daemon: its requests without their id, its answers, and the events of requests that have some. */
export interface Messages {
  op: { op: string };
  answer: { answer: string };
  event: object;
}

/** The answer to the first request. */
export interface Hello {
  answer: 'hello';
  protocol: number;
  pid: number;
}

export interface RequestOptions<M extends Messages> {
  signal?: AbortSignal;
  /** Called with each event of the request, in order. */
  onEvent?: (event: M['event']) => void;
  /** The request that cancels the request `id`. Without it, a request that is aborted is only not waited for. */
  cancel?: (id: number) => M['op'];
}

/** Requests and replies over one socket. Requests run side by side. */
export class Link<M extends Messages> {
  readonly gone: Promise<void>;
  readonly kind: DaemonKind;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending<M>>();
  /** Listeners of requests that were answered and whose events continue until the connection ends. */
  readonly #followers = new Map<number, (event: M['event']) => void>();
  #lastId = 0;
  #open = true;

  constructor(kind: DaemonKind, socket: Socket) {
    this.kind = kind;
    this.#socket = socket;
    this.gone = new Promise((resolve) => socket.once('close', () => resolve()));
    socket.on('error', () => socket.destroy());
    socket.once('close', () => this.#lost());
    onLine(socket, (line) => this.#receive(line));
  }

  async hello(): Promise<Extract<M['answer'], Hello>> {
    const { kind } = this;
    const answer = await this.request({ op: 'hello' }, { signal: AbortSignal.timeout(HELLO_TIMEOUT_MS) });
    if (!isHello(answer)) throw wrongAnswer(kind, answer.answer, 'hello');
    const { protocol, pid } = answer;
    if (protocol === kind.protocol) return answer as Extract<M['answer'], Hello>;
    throw new EngineError(
      kind.codes.protocol,
      `The ${titleOf(kind)} with pid ${pid} speaks version ${protocol} of its protocol, this program ${kind.protocol}.`,
      { hint: `Stop all sandboxes and the old ${titleOf(kind)}, then try again.` },
    );
  }

  request(op: M['op'] | { op: 'hello' }, options: RequestOptions<M> = {}): Promise<M['answer']> {
    const { signal, onEvent, cancel } = options;
    if (signal?.aborted) return Promise.reject(this.#cancelled(signal));
    if (!this.#open) return Promise.reject(this.#lostError());
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const abort = (): void => this.#abort(id, cancel?.(id), signal);
      signal?.addEventListener('abort', abort, { once: true });
      const settle =
        <T>(done: (value: T) => void) =>
        (value: T): void => {
          signal?.removeEventListener('abort', abort);
          this.#pending.delete(id);
          done(value);
        };
      this.#pending.set(id, { resolve: settle(resolve), reject: settle(reject), onEvent });
      this.#socket.write(`${JSON.stringify({ id, ...op })}\n`);
    });
  }

  /** Sends a request whose events continue after it was answered, until the connection ends. Resolves once it is. */
  async follow(op: M['op'], onEvent: (event: M['event']) => void, signal?: AbortSignal): Promise<void> {
    // The first event may arrive together with the answer.
    const id = this.#lastId + 1;
    this.#followers.set(id, onEvent);
    await this.request(op, signal ? { signal } : {}).catch((error: unknown) => {
      this.#followers.delete(id);
      throw error;
    });
  }

  /** The answer, if it is of the kind that the request has. */
  expect<K extends M['answer']['answer']>(answer: M['answer'], wanted: K): Extract<M['answer'], { answer: K }> {
    if (answer.answer !== wanted) throw wrongAnswer(this.kind, answer.answer, wanted);
    return answer as Extract<M['answer'], { answer: K }>;
  }

  close(): void {
    this.#socket.destroy();
  }

  /** A request that can be cancelled is told to stop and then answers by itself; any other is simply not waited for. */
  #abort(id: number, cancel: M['op'] | undefined, signal: AbortSignal | undefined): void {
    if (cancel === undefined) this.#pending.get(id)?.reject(this.#cancelled(signal));
    // The request may have finished in this instant. Then there is nothing to cancel.
    else this.request(cancel).catch(() => undefined);
  }

  #receive(line: string): void {
    const reply = replyOf<M>(line);
    if (reply === null) {
      this.#socket.destroy();
      return;
    }
    const pending = this.#pending.get(reply.id);
    if (reply.kind === 'event') (this.#followers.get(reply.id) ?? pending?.onEvent)?.(reply.event);
    else if (reply.kind === 'ok') pending?.resolve(reply.result);
    else pending?.reject(new EngineError(reply.error.code, sentence(reply.error.message)));
  }

  #lost(): void {
    this.#open = false;
    this.#followers.clear();
    for (const pending of this.#pending.values()) pending.reject(this.#lostError());
  }

  #lostError(): EngineError {
    const { codes, goneHint: hint } = this.kind;
    return new EngineError(codes.gone, `The connection to the ${titleOf(this.kind)} was lost.`, { hint });
  }

  #cancelled(signal: AbortSignal | undefined): EngineError {
    return new EngineError('cancelled', `The request to the ${titleOf(this.kind)} was given up.`, {
      cause: signal?.reason,
    });
  }
}

interface Pending<M extends Messages> {
  resolve: (answer: M['answer']) => void;
  reject: (error: Error) => void;
  onEvent: ((event: M['event']) => void) | undefined;
}

type Reply<M extends Messages> =
  | { kind: 'ok'; id: number; result: M['answer'] }
  | { kind: 'event'; id: number; event: M['event'] }
  | { kind: 'err'; id: number; error: { code: EngineErrorCode; message: string } };

/** Parses a reply. Returns `null` for anything else: the sender does not speak the protocol. */
function replyOf<M extends Messages>(line: string): Reply<M> | null {
  try {
    const reply = JSON.parse(line) as Reply<M> | null;
    if (typeof reply?.id !== 'number') return null;
    if (reply.kind === 'err') return typeof reply.error.message === 'string' ? reply : null;
    const body = reply.kind === 'event' ? reply.event : reply.result;
    return typeof body === 'object' && body !== null ? reply : null;
  } catch {
    return null;
  }
}

function isHello(answer: object): answer is Hello {
  return 'answer' in answer && answer.answer === 'hello' && 'pid' in answer && typeof answer.pid === 'number';
}

function sentence(text: string): string {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

function wrongAnswer(kind: DaemonKind, answer: string, wanted: string): EngineError {
  return new EngineError(kind.codes.protocol, `The ${titleOf(kind)} answered "${answer}" where "${wanted}" was due.`);
}

/** A connected socket, or `null` when nobody listens at `path`. `allowHalfOpen`: each direction ends by itself. */
export function dialDaemon(kind: DaemonKind, path: string, allowHalfOpen = false): Promise<Socket | null> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen });
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(null);
      else
        reject(
          new EngineError(kind.codes.gone, `Connecting to the ${titleOf(kind)} at ${path} failed.`, { cause: error }),
        );
    });
  });
}
