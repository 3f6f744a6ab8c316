import { ApiError } from '@forkd/api';
import { GuestAgent, GuestError } from '@forkd/guest';

import { raceAbort } from '../deadline.ts';
import { guestFailure } from './guest-errors.ts';

/** How long a request waits for the agent to answer before it counts as unreachable. */
const connectTimeoutMs = 30_000;

/**
 * The one connection with the agent of a guest, made when it is first needed and made again after it was lost: by a
 * pager that was restarted, or by a guest that was busy. What ran in the guest goes on meanwhile.
 */
export class GuestLink {
  readonly #sandboxId: string;
  #place: { socket: string; port: number | undefined } | null = null;
  #agent: Promise<GuestAgent> | null = null;
  #closed = false;

  constructor(sandboxId: string) {
    this.#sandboxId = sandboxId;
  }

  /** Where the agent is reached from now on: at a socket of its own, or at a port behind one. */
  retarget(socket: string, port: number | null): void {
    this.#place = { socket, port: port ?? undefined };
    this.#drop(this.#agent);
  }

  /** Waits for the agent, for as long as `signal` allows: a guest that boots answers late. */
  async connect(timeoutMs: number, signal: AbortSignal): Promise<void> {
    await raceAbort(this.#connected(timeoutMs), signal);
  }

  /**
   * Runs `call` on the connection. Errors of the guest come out as the wire's. A call that found a dead connection is
   * made once more on a new one if it is `repeatable`: another may have been carried out already.
   */
  async call<T>(
    call: (agent: GuestAgent) => Promise<T>,
    options: { signal: AbortSignal; repeatable?: boolean },
  ): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      const connection = this.#connected(connectTimeoutMs);
      try {
        const agent = await raceAbort(connection, options.signal);
        return await raceAbort(call(agent), options.signal);
      } catch (error) {
        options.signal.throwIfAborted();
        const lost = error instanceof GuestError && error.code === 'guest_disconnected';
        if (lost) this.#drop(connection);
        if (!lost || options.repeatable !== true || attempt > 1) throw guestFailure(this.#sandboxId, error);
      }
    }
  }

  close(): void {
    this.#closed = true;
    this.#drop(this.#agent);
  }

  #connected(timeoutMs: number): Promise<GuestAgent> {
    if (this.#closed || this.#place === null) {
      const sentence = `Sandbox ${this.#sandboxId} has no connection to its guest.`;
      return Promise.reject(new ApiError('guest_unreachable', sentence));
    }
    if (this.#agent !== null) return this.#agent;
    const connection = GuestAgent.connect(this.#place.socket, { vsockPort: this.#place.port, timeoutMs });
    this.#agent = connection;
    connection.then(
      (agent) => void agent.closed.then(() => this.#drop(connection)),
      () => this.#drop(connection),
    );
    return connection;
  }

  #drop(connection: Promise<GuestAgent> | null): void {
    if (connection === null) return;
    if (this.#agent === connection) this.#agent = null;
    connection.then((agent) => agent.close()).catch(() => undefined);
  }
}
