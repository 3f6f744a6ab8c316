import { access, constants } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { ApiError } from '@forkd/api';
import { type FlowRecord, type Inherited, Net, type Policy, type Wires } from '@forkd/engine';
import type { Logger } from 'pino';
import { requireBinary, type Binaries } from '../binaries.ts';
import { messageOf } from '../errors.ts';
import type { DataPaths } from '../paths.ts';
import { Supervisor } from './supervisor.ts';

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
  readonly #log: Logger;
  readonly #supervisor: Supervisor<Net>;
  #onNewProcess: OnNewProcess = async () => undefined;
  #onFlow: (flow: FlowRecord) => void = () => undefined;

  private constructor({ paths, binaries, resolvers, log }: NetworkParts) {
    this.#log = log;
    this.#supervisor = new Supervisor({
      title: 'the network process',
      pidField: 'net_pid',
      socket: join(paths.run, 'net.sock'),
      connect: async (signal) => {
        const bin = await requireBinary(binaries, 'net');
        return Net.ensure({ bin, runDir: paths.run, resolvers, ...(signal && { signal }) });
      },
      disconnect: (net) => net.close(),
      prepare: async (net) => {
        await net.follow((flow) => this.#onFlow(flow));
        await this.#onNewProcess(net);
        return {};
      },
      late: () => new ApiError('network_unavailable', 'The network process has not come up in time.'),
      log,
    });
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
  use(signal?: AbortSignal): Promise<Net> {
    return this.#supervisor.use(signal);
  }

  async open(): Promise<string> {
    return (await this.use()).socket;
  }

  async bind(bind: Parameters<Net['bind']>[0]): Promise<void> {
    await (await this.use()).bind(bind);
  }

  async release(key: string): Promise<void> {
    await this.#supervisor
      .ifUp()
      ?.release(key)
      .catch((error: unknown) => {
        this.#log.warn({ reason: messageOf(error) }, 'could not release the network wire of a VM');
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
  close(options: { endProcess: boolean }): Promise<void> {
    return this.#supervisor.close({ end: options.endProcess });
  }
}
