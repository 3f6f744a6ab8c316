import { connect, type Socket } from 'node:net';
import { EngineError } from '../errors.ts';
import { onLine } from '../lines.ts';
import type { Answer, BranchEvent, Op, Reply } from './wire.ts';

/** The protocol's version that this client speaks; the pager's `PROTOCOL_VERSION`. */
const PROTOCOL_VERSION = 6;

/** How long a pager may take to answer its first request. */
const HELLO_TIMEOUT_MS = 5_000;

export interface BranchOptions {
  /** Cancels the branch. The source keeps running. */
  signal?: AbortSignal;
  /** Called at each stage that the branch reaches, in order. */
  onEvent?: (event: BranchEvent) => void;
}

/** Requests and replies over one socket. */
export class Link {
  readonly gone: Promise<void>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #open = true;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.gone = new Promise((resolve) => socket.once('close', () => resolve()));
    socket.on('error', () => socket.destroy());
    socket.once('close', () => this.#lost());
    onLine(socket, (line) => this.#receive(line));
  }

  async hello(): Promise<Hello> {
    const answer = await this.request({ op: 'hello' }, { signal: AbortSignal.timeout(HELLO_TIMEOUT_MS) });
    const hello = expect(answer, 'hello');
    if (hello.protocol !== PROTOCOL_VERSION) {
      throw new EngineError(
        'pager_protocol',
        `The pager with pid ${hello.pid} speaks version ${hello.protocol} of its protocol, this program ${PROTOCOL_VERSION}.`,
        { hint: 'Stop all sandboxes and the old pager, then try again.' },
      );
    }
    return hello;
  }

  request(op: Op, options: BranchOptions = {}): Promise<Answer> {
    const { signal, onEvent } = options;
    if (signal?.aborted) return Promise.reject(cancelled(signal));
    if (!this.#open) return Promise.reject(lost());
    const id = ++this.#lastId;
    return new Promise<Answer>((resolve, reject) => {
      const abort = (): void => this.#abort(id, op, signal);
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

  close(): void {
    this.#socket.destroy();
  }

  /** A branch is told to stop and then answers by itself; anything else is simply not waited for. */
  #abort(id: number, op: Op, signal: AbortSignal | undefined): void {
    if (op.op !== 'branch') {
      this.#pending.get(id)?.reject(cancelled(signal));
      return;
    }
    // The request may have finished in this instant. Then there is nothing to cancel.
    this.request({ op: 'cancel', request: id }).catch(() => undefined);
  }

  #receive(line: string): void {
    const reply = replyOf(line);
    if (reply === null) {
      this.#socket.destroy();
      return;
    }
    const pending = this.#pending.get(reply.id);
    if (reply.kind === 'event') pending?.onEvent?.(reply.event);
    else if (reply.kind === 'ok') pending?.resolve(reply.result);
    else pending?.reject(new EngineError(reply.error.code, sentence(reply.error.message)));
  }

  #lost(): void {
    this.#open = false;
    for (const pending of this.#pending.values()) pending.reject(lost());
  }
}

/** Parses a reply. Returns `null` for anything else: the sender does not speak the protocol. */
function replyOf(line: string): Reply | null {
  try {
    const reply = JSON.parse(line) as Reply | null;
    if (typeof reply?.id !== 'number') return null;
    if (reply.kind === 'err') return typeof reply.error.message === 'string' ? reply : null;
    const body = reply.kind === 'event' ? reply.event : reply.result;
    return typeof body === 'object' && body !== null ? reply : null;
  } catch {
    return null;
  }
}

function sentence(text: string): string {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

function lost(): EngineError {
  return new EngineError('pager_gone', 'The connection to the pager was lost.', {
    hint: 'Running sandboxes are not affected. Try again: a new pager is started.',
  });
}

function cancelled(signal: AbortSignal | undefined): EngineError {
  return new EngineError('cancelled', 'The request to the pager was given up.', { cause: signal?.reason });
}

interface Pending {
  resolve: (answer: Answer) => void;
  reject: (error: Error) => void;
  onEvent: ((event: BranchEvent) => void) | undefined;
}

export type Hello = Extract<Answer, { answer: 'hello' }>;

export function expect<K extends Answer['answer']>(answer: Answer, kind: K): Extract<Answer, { answer: K }> {
  if (answer.answer !== kind) {
    throw new EngineError('pager_protocol', `The pager answered "${answer.answer}" where "${kind}" was due.`);
  }
  return answer as Extract<Answer, { answer: K }>;
}

/** A connected socket, or `null` when nobody listens at `path`. */
export function dial(path: string): Promise<Socket | null> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(null);
      else reject(new EngineError('pager_gone', `Connecting to the pager at ${path} failed.`, { cause: error }));
    });
  });
}
