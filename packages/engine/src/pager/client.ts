import { connect, type Socket } from 'node:net';
import { EngineError } from '../errors.ts';
import { onLine } from '../lines.ts';
import { startPager, type PagerOptions } from './start.ts';
import type {
  Announce,
  Answer,
  Blob,
  Branch,
  BranchDone,
  BranchEvent,
  HeldLayer,
  HeldSandbox,
  MemoryUse,
  Op,
  Prepare,
  Reply,
  Wake,
} from './wire.ts';

/** The protocol's version that this client speaks; the pager's `PROTOCOL_VERSION`. */
const PROTOCOL_VERSION = 3;

/** How long a pager may take to answer its first request. */
const HELLO_TIMEOUT_MS = 5_000;

/** How often a pager is looked for or started when the one that was found ends. */
const CONNECT_ATTEMPTS = 5;

interface Pending {
  resolve: (answer: Answer) => void;
  reject: (error: Error) => void;
  onEvent: ((event: BranchEvent) => void) | undefined;
}

type Hello = Extract<Answer, { answer: 'hello' }>;
type Floor = Omit<Extract<Answer, { answer: 'floor' }>, 'answer'>;
type Inventory = { layers: HeldLayer[]; sandboxes: HeldSandbox[] };

export interface BranchOptions {
  /** Gives the branch up; the source runs on. */
  signal?: AbortSignal;
  /** Called at each stage that the branch reaches, in order. */
  onEvent?: (event: BranchEvent) => void;
}

/** A connection to `forkd-pager`. Requests run side by side. */
export class Pager {
  readonly pid: number;
  /** The host's time stamp counter in kHz. */
  readonly tscKhz: number;
  /** Why `live` cannot work on this host; `null` when it can. */
  readonly liveUnavailable: string | null;
  /** Where VMMs call in; nothing else is in its directory. */
  readonly shimSocket: string;
  /** Settles when the connection is lost. */
  readonly gone: Promise<void>;
  readonly #link: Link;

  private constructor(link: Link, hello: Hello, runDir: string) {
    this.#link = link;
    this.pid = hello.pid;
    this.tscKhz = hello.tsc_khz;
    this.liveUnavailable = hello.live_unavailable;
    this.shimSocket = `${runDir}/shims/shim.sock`;
    this.gone = link.gone;
  }

  /**
   * Connects to the pager of `runDir`, starting one when none answers. It outlives this process.
   * Throws `pager_missing`, `pager_gone` or `pager_protocol`.
   */
  static async ensure(options: PagerOptions): Promise<Pager> {
    const path = `${options.runDir}/pager.sock`;
    for (let attempt = 1; ; attempt += 1) {
      const socket = (await dial(path)) ?? (await startPager(options, () => dial(path)));
      const link = new Link(socket);
      try {
        const hello = await link.hello();
        return new Pager(link, hello, options.runDir);
      } catch (error) {
        link.close();
        // One that was killed a moment ago may still take a connection, and drops it.
        const gone = error instanceof EngineError && error.code === 'pager_gone';
        if (!gone || attempt >= CONNECT_ATTEMPTS) throw error;
      }
    }
  }

  async announce(announce: Announce): Promise<void> {
    await this.#link.request({ op: 'announce', ...announce });
  }

  /** Connects to the VM, which stands still afterwards if it is `paused`, else it runs. */
  async open(sandbox: string, paused = false): Promise<void> {
    await this.#link.request({ op: 'open', sandbox, paused });
  }

  /** Stops a VM until it is resumed. `busy` while a branch of it is under way. */
  async pause(sandbox: string): Promise<void> {
    await this.#link.request({ op: 'pause', sandbox });
  }

  /** Lets a VM go on that was paused. */
  async resume(sandbox: string): Promise<void> {
    await this.#link.request({ op: 'resume', sandbox });
  }

  /** Announces a VMM that will wait for its VM. It ends with this connection, unless it is woken before. */
  async prepare(prepare: Prepare): Promise<void> {
    await this.#link.request({ op: 'prepare', ...prepare });
  }

  /** Resolves when a prepared VMM waits for its VM. */
  async awaitIdle(vmm: string): Promise<void> {
    await this.#link.request({ op: 'await_idle', vmm });
  }

  /** Gives a VMM that waits a VM. Resolves when it runs and is open. */
  async wake(wake: Wake, signal?: AbortSignal): Promise<void> {
    await this.#link.request({ op: 'wake', ...wake }, signal ? { signal } : {});
  }

  async release(sandbox: string): Promise<void> {
    await this.#link.request({ op: 'release', sandbox });
  }

  /** Takes a snapshot of a running VM, and resolves when it is durable. */
  async branch(request: Branch, options: BranchOptions = {}): Promise<BranchDone> {
    const answer = await this.#link.request({ op: 'branch', ...request }, options);
    return expect(answer, 'branch');
  }

  /** What a pause costs that does nothing but save the device state. */
  async floor(sandbox: string): Promise<Floor> {
    const { pause_us, device_state_us } = expect(await this.#link.request({ op: 'floor', sandbox }), 'floor');
    return { pause_us, device_state_us };
  }

  async memory(sandbox: string): Promise<MemoryUse> {
    const { private_bytes, shared_bytes } = expect(await this.#link.request({ op: 'memory', sandbox }), 'memory');
    return { private_bytes, shared_bytes };
  }

  /** Writes what a stack holds as one layer that needs no other. */
  async flatten(memBytes: number, stack: readonly string[]): Promise<Blob> {
    const answer = await this.#link.request({ op: 'flatten', mem_bytes: memBytes, stack: [...stack] });
    const { digest, size } = expect(answer, 'layer');
    return { digest, size };
  }

  async inventory(): Promise<Inventory> {
    const { layers, sandboxes } = expect(await this.#link.request({ op: 'inventory' }), 'inventory');
    return { layers, sandboxes };
  }

  /** Lets go of a layer held in memory. VMs that map it keep it. */
  async dropLayer(layer: string): Promise<void> {
    await this.#link.request({ op: 'drop_layer', layer });
  }

  /** Ends the pager. VMs run on. */
  async shutdown(): Promise<void> {
    await this.#link.request({ op: 'shutdown' });
    await this.gone;
  }

  /** Hangs up. The pager goes on; branches of this connection are cancelled. */
  close(): void {
    this.#link.close();
  }
}

function expect<K extends Answer['answer']>(answer: Answer, kind: K): Extract<Answer, { answer: K }> {
  if (answer.answer !== kind) {
    throw new EngineError('pager_protocol', `The pager answered "${answer.answer}" where "${kind}" was due.`);
  }
  return answer as Extract<Answer, { answer: K }>;
}

/** A connected socket, or `null` when nobody listens at `path`. */
function dial(path: string): Promise<Socket | null> {
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

/** Requests and replies over one socket. */
class Link {
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
    // It may have finished in this instant: then there is nothing to cancel.
    this.request({ op: 'cancel', request: id }).catch(() => undefined);
  }

  #receive(line: string): void {
    let reply: Reply;
    try {
      reply = JSON.parse(line) as Reply;
    } catch {
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
