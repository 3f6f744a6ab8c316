import { ApiError } from '@forkd/api';
import { GuestAgent, GuestError } from '@forkd/guest';
import { raceAbort } from '../deadline.ts';
import { guestFailure } from './guest-errors.ts';
import { waitForReason } from './vm-end.ts';

/** The time that a request waits for the agent before the guest counts as unreachable. */
const CONNECT_TIMEOUT_MS = 30_000;

/**
 * The only connection to the agent of a guest. It is made when first needed, and again after a loss: through a restart of
 * the pager, or a busy guest. Programs in the guest continue meanwhile.
 */
export class GuestLink {
  readonly #sandboxId: string;
  #place: { socket: string; port: number | undefined } | null = null;
  #agent: Promise<GuestAgent> | null = null;
  #closed = false;

  constructor(sandboxId: string) {
    this.#sandboxId = sandboxId;
  }

  /** Sets the new address of the agent: its own socket, or a port behind a socket. */
  retarget(socket: string, port: number | null): void {
    this.#place = { socket, port: port ?? undefined };
    this.#drop(this.#agent);
  }

  /** Waits for the agent, for as long as `signal` allows: a guest that boots answers late. */
  async connect(timeoutMs: number, signal: AbortSignal): Promise<void> {
    try {
      await raceAbort(this.#connected(timeoutMs), signal);
    } catch (error) {
      signal.throwIfAborted();
      throw guestFailure(this.#sandboxId, error);
    }
  }

  /**
   * Runs `call` on the connection. Errors of the guest become errors of the wire. A `repeatable` call that finds a dead
   * connection is made once more on a new one. Any other call may have been carried out already.
   */
  async call<T>(
    call: (agent: GuestAgent) => Promise<T>,
    options: { signal: AbortSignal; repeatable?: boolean },
  ): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      const connection = this.#connected(CONNECT_TIMEOUT_MS);
      try {
        const agent = await raceAbort(connection, options.signal);
        return await raceAbort(call(agent), options.signal);
      } catch (error) {
        options.signal.throwIfAborted();
        const lost = error instanceof GuestError && error.code === 'guest_disconnected';
        if (lost) this.#drop(connection);
        if (lost && options.repeatable === true && attempt === 1) continue;
        if (lost) await waitForReason(options.signal);
        options.signal.throwIfAborted();
        throw guestFailure(this.#sandboxId, error);
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
    const drop = () => this.#drop(connection);
    connection.then((agent) => agent.closed).then(drop, drop);
    return connection;
  }

  #drop(connection: Promise<GuestAgent> | null): void {
    if (connection === null) return;
    if (this.#agent === connection) this.#agent = null;
    connection.then((agent) => agent.close()).catch(() => undefined);
  }
}
