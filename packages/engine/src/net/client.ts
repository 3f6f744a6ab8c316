import { once } from 'node:events';
import type { Socket } from 'node:net';
import type { DaemonKind } from '../daemon/kind.ts';
import { dialDaemon, type Link } from '../daemon/link.ts';
import { connectDaemon, endDaemon } from '../daemon/start.ts';
import { EngineError, type EngineErrorCode } from '../errors.ts';
import { anySignal } from '../signals.ts';
import type { Answer, Bind, FlowRecord, Inherited, Op, Policy, WireInfo, WireStats } from './wire.ts';

/** The network process as a daemon. The version is its `PROTOCOL_VERSION`. */
const netKind: DaemonKind = {
  name: 'net',
  title: 'network process',
  protocol: 1,
  codes: { missing: 'net_missing', gone: 'net_gone', protocol: 'net_protocol' },
  goneHint: 'Running sandboxes are not affected, but for their open connections. Try again: it is started again.',
};

/** The network process answers any request within this time, but for a call to a port. */
const ANSWER_TIMEOUT_MS = 10_000;
/** The guest takes or refuses a connection within this time. */
const DIAL_TIMEOUT_MS = 15_000;
const DIAL_REPLY_BYTES_MAX = 64 * 1024;

interface NetMessages {
  op: Op;
  answer: Answer;
  event: FlowRecord;
}

export interface NetOptions {
  /** The `forkd-net` program. */
  bin: string;
  /** The directory of its socket, its lock and its log. */
  runDir: string;
  /** DNS servers as `ADDRESS:PORT`. Empty: those of the host. */
  resolvers: readonly string[];
  signal?: AbortSignal;
}

/** A connection to `forkd-net`, which has the other end of the network wire of each VM. */
export class Net {
  readonly pid: number;
  /** The socket where the jail hands over the wire of a VM. */
  readonly socket: string;
  /** Settles when the connection is lost. */
  readonly gone: Promise<void>;
  readonly #link: Link<NetMessages>;

  private constructor(link: Link<NetMessages>, pid: number, socket: string) {
    this.#link = link;
    this.pid = pid;
    this.socket = socket;
    this.gone = link.gone;
  }

  /** Connects to the network process of `runDir`, starting one when none answers. It outlives this process. */
  static async ensure({ bin, runDir, resolvers, signal }: NetOptions): Promise<Net> {
    const args = ['--run-dir', runDir, ...resolvers.flatMap((resolver) => ['--resolver', resolver])];
    const { link, hello } = await connectDaemon<NetMessages>(netKind, { bin, args, runDir, signal });
    return new Net(link, hello.pid, `${runDir}/${netKind.name}.sock`);
  }

  /** Gives a wire to a sandbox. A second call changes the policy and keeps the connections. Throws `unknown_key`. */
  async bind(bind: Bind): Promise<void> {
    await this.#ask({ op: 'bind', ...bind });
  }

  /** Changes what a sandbox may reach. Resolves with the number of connections that are no longer allowed, and were reset. */
  async setPolicy(key: string, policy: Policy): Promise<number> {
    return this.#link.expect(await this.#ask({ op: 'set_policy', key, policy }), 'reset').flows;
  }

  /** The names and connections that a guest knows, for children of a snapshot that was taken a moment ago. */
  async mark(key: string): Promise<Inherited> {
    return this.#link.expect(await this.#ask({ op: 'mark', key }), 'marked').inherited;
  }

  /** Ends a wire whose VM is gone. */
  async release(key: string): Promise<void> {
    await this.#ask({ op: 'close', key });
  }

  async inventory(): Promise<WireInfo[]> {
    return this.#link.expect(await this.#ask({ op: 'inventory' }), 'inventory').wires;
  }

  async stats(key: string): Promise<WireStats> {
    const { answer: _, ...stats } = this.#link.expect(await this.#ask({ op: 'stats', key }), 'stats');
    return stats;
  }

  /** Calls `onFlow` with each flow of all sandboxes from now on, until the connection is lost. One caller gets each flow. */
  async follow(onFlow: (flow: FlowRecord) => void): Promise<void> {
    await this.#link.follow({ op: 'flows' }, onFlow, AbortSignal.timeout(ANSWER_TIMEOUT_MS));
  }

  /** Connects to a TCP port of a guest. Throws `refused`, `timed_out` or `unknown_key`. */
  async dial(key: string, port: number, signal?: AbortSignal): Promise<Socket> {
    const socket = await dialDaemon(netKind, this.socket, true);
    if (socket === null) throw new EngineError('net_gone', 'The network process does not listen.');
    const inTime = anySignal(AbortSignal.timeout(DIAL_TIMEOUT_MS), signal);
    const giveUp = () => socket.destroy();
    inTime.addEventListener('abort', giveUp, { once: true });
    try {
      socket.on('error', () => socket.destroy());
      socket.write(`${JSON.stringify({ id: 1, op: 'dial', key, port })}\n`);
      refuseUnlessOk(await firstLine(socket));
      return socket;
    } catch (error) {
      socket.destroy();
      signal?.throwIfAborted();
      throw error;
    } finally {
      inTime.removeEventListener('abort', giveUp);
    }
  }

  /** Ends the network process. VMs keep running, without a network. */
  async shutdown(): Promise<void> {
    await endDaemon(this.#link, { op: 'shutdown' }, this.pid);
  }

  /** Closes the connection. The network process continues. */
  close(): void {
    this.#link.close();
  }

  #ask(op: Op): Promise<Answer> {
    return this.#link.request(op, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
  }
}

/** Reads up to the end of the first line. What follows stays in the socket. */
async function firstLine(socket: Socket): Promise<string> {
  const pieces: Buffer[] = [];
  let length = 0;
  for (;;) {
    const piece = socket.read() as Buffer | null;
    if (piece === null) {
      const over = socket.destroyed || socket.readableEnded;
      if (over) throw new EngineError('net_gone', 'The network process did not answer.');
      await Promise.race([once(socket, 'readable'), once(socket, 'close'), once(socket, 'end')]);
      continue;
    }
    const end = piece.indexOf(0x0a);
    length += piece.length;
    if (end < 0 && length > DIAL_REPLY_BYTES_MAX) throw new EngineError('net_protocol', 'The answer is too long.');
    pieces.push(end < 0 ? piece : piece.subarray(0, end));
    if (end < 0) continue;
    if (end + 1 < piece.length) socket.unshift(piece.subarray(end + 1));
    return Buffer.concat(pieces).toString('utf8');
  }
}

function refuseUnlessOk(line: string): void {
  let reply: { kind?: unknown; error?: { code?: EngineErrorCode; message?: unknown } } | null;
  try {
    reply = JSON.parse(line) as typeof reply;
  } catch (cause) {
    throw new EngineError('net_protocol', 'The network process answered with something that is not JSON.', { cause });
  }
  if (reply?.kind === 'ok') return;
  const { code = 'net_protocol', message = 'no reason was given' } = reply?.error ?? {};
  throw new EngineError(code, `The port cannot be reached: ${String(message)}.`);
}
