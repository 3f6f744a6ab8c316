import { access, constants, stat } from 'node:fs/promises';
import type { Duplex } from 'node:stream';
import { ApiError } from '@forkd/api';
import { type FlowRecord, type Inherited, Net, type Policy, type Wires } from '@forkd/engine';
import type { Logger } from 'pino';
import { requireBinary, type Binaries } from '../binaries.ts';
import { sleep, withDeadline } from '../deadline.ts';
import { messageOf, toApiError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { DataPaths } from '../paths.ts';

interface NetworkParts {
  paths: DataPaths;
  binaries: Binaries;
  /** DNS servers as `ADDRESS:PORT`. Empty: those of the host. */
  resolvers: readonly string[];
  log: Logger;
}

/** Called with a new network process before any request gets it: the wires of sandboxes must be bound first. */
type OnNewProcess = (net: Net) => Promise<void>;

/**
 * The network process, started when it is first needed. One that is lost is started again at once, since no sandbox has a
 * network without it.
 */
export class Network implements Wires {
  readonly #parts: NetworkParts;
  readonly #closed = new AbortController();
  #starting: Promise<Net> | null = null;
  #net: Net | null = null;
  #onNewProcess: OnNewProcess = async () => undefined;
  #onFlow: (flow: FlowRecord) => void = () => undefined;

  private constructor(parts: NetworkParts) {
    this.#parts = parts;
  }

  /** `null` if the program is not installed: no sandbox has a network then. */
  static async find(parts: NetworkParts): Promise<Network | null> {
    const isThere = await access(parts.binaries.net, constants.X_OK).then(
      () => true,
      () => false,
    );
    return isThere ? new Network(parts) : null;
  }

  onNewProcess(handler: OnNewProcess): void {
    this.#onNewProcess = handler;
  }

  onFlow(handler: (flow: FlowRecord) => void): void {
    this.#onFlow = handler;
  }

  /** The network process, started if necessary. Throws `network_unavailable` if it does not start in time. */
  async use(signal?: AbortSignal): Promise<Net> {
    const starting = (this.#starting ??= this.#start([0]));
    const late = () => new ApiError('network_unavailable', 'The network process has not come up in time.');
    return withDeadline(limits.pagerWaitMs, signal, late, () => starting);
  }

  async open(): Promise<string> {
    return (await this.use()).socket;
  }

  async bind(bind: Parameters<Net['bind']>[0]): Promise<void> {
    await (await this.use()).bind(bind);
  }

  async release(key: string): Promise<void> {
    await this.#net?.release(key).catch((error: unknown) => {
      this.#parts.log.warn({ reason: messageOf(error) }, 'could not release the network wire of a VM');
    });
  }

  async setPolicy(key: string, policy: Policy): Promise<number> {
    return (await this.use()).setPolicy(key, policy);
  }

  async mark(key: string): Promise<Inherited> {
    return (await this.use()).mark(key);
  }

  async dial(key: string, port: number, signal: AbortSignal): Promise<Duplex> {
    return (await this.use(signal)).dial(key, port, signal);
  }

  /** Disconnects from the network process, or ends it, even one that an earlier controller left. */
  async close(options: { endProcess: boolean }): Promise<void> {
    this.#closed.abort(new ApiError('shutting_down', 'The controller is ending.'));
    const known = this.#net;
    this.#net = null;
    if (options.endProcess) await this.#end(known);
    known?.close();
  }

  async #end(known: Net | null): Promise<void> {
    const { paths, log } = this.#parts;
    if (known === null && (await stat(`${paths.run}/net.sock`).catch(() => null)) === null) return;
    try {
      await (known ?? (await this.#ensure())).shutdown();
    } catch (error) {
      log.warn({ reason: messageOf(error) }, 'could not end the network process');
    }
  }

  async #start(delaysMs: readonly number[]): Promise<Net> {
    let failure: unknown;
    for (const delayMs of delaysMs) {
      await sleep(delayMs, this.#closed.signal);
      try {
        return await this.#startOnce();
      } catch (error) {
        failure = error;
        this.#parts.log.warn({ reason: messageOf(error) }, 'could not start the network process');
      }
    }
    this.#starting = null;
    throw toApiError(failure);
  }

  async #startOnce(): Promise<Net> {
    this.#closed.signal.throwIfAborted();
    const net = await this.#ensure(this.#closed.signal);
    try {
      await net.follow((flow) => this.#onFlow(flow));
      await this.#onNewProcess(net);
      this.#closed.signal.throwIfAborted();
    } catch (error) {
      net.close();
      throw error;
    }
    this.#net = net;
    this.#parts.log.info({ net_pid: net.pid }, 'the network process is up');
    net.gone
      .then(() => this.#lost(net))
      .catch((error: unknown) => this.#parts.log.error({ err: error }, 'could not start another network process'));
    return net;
  }

  async #ensure(signal?: AbortSignal): Promise<Net> {
    const { paths, binaries, resolvers } = this.#parts;
    const bin = await requireBinary(binaries, 'net');
    return Net.ensure({ bin, runDir: paths.run, resolvers, ...(signal && { signal }) });
  }

  #lost(net: Net): void {
    if (this.#net !== net || this.#closed.signal.aborted) return;
    this.#parts.log.error({ net_pid: net.pid }, 'the network process is gone: starting another');
    this.#net = null;
    const starting = this.#start(limits.pagerRestartDelaysMs);
    this.#starting = starting;
    starting.catch(() => undefined);
  }
}
