import { stat } from 'node:fs/promises';
import { ApiError } from '@forkd/api';
import type { Logger } from 'pino';
import { sleep, withDeadline } from '../deadline.ts';
import { messageOf, toApiError } from '../errors.ts';
import { limits } from '../limits.ts';

/** A connection to a native program that outlives the controller: the pager, the disk server or the network process. */
export interface Supervised {
  readonly pid: number;
  /** Settles when the connection is lost. */
  readonly gone: Promise<void>;
  /** Ends the program. */
  shutdown(): Promise<void>;
}

export interface SupervisorParts<T extends Supervised> {
  /** The name in messages, such as `the pager`. */
  title: string;
  /** The name of its pid in messages. */
  pidField: string;
  /** The path of its socket, which exists while it runs. */
  socket: string;
  /** Connects to it, and starts it if none runs. */
  connect: (signal?: AbortSignal) => Promise<T>;
  disconnect: (daemon: T) => void;
  /** Prepares a new connection before any caller gets it. Resolves with further fields of the message that it is up. */
  prepare?: (daemon: T) => Promise<object>;
  /** The error for callers for whom it comes up too late. */
  late: () => ApiError;
  /** Delays of the attempts of a first start, in milliseconds. Default: one attempt at once. */
  startDelaysMs?: readonly number[];
  /** Called when the connection is lost. By default another program is started at once. */
  onLost?: () => void;
  log: Logger;
}

/** Starts a program when it is first needed, and again when it is lost. Callers wait for that, for a limited time. */
export class Supervisor<T extends Supervised> {
  readonly #parts: SupervisorParts<T>;
  readonly #closed = new AbortController();
  /** The program that is up or starting. `null` before the first start, and after a failed one. */
  #starting: Promise<T> | null = null;
  #daemon: T | null = null;

  constructor(parts: SupervisorParts<T>) {
    this.#parts = parts;
  }

  /** Aborts when the controller ends. */
  get closing(): AbortSignal {
    return this.#closed.signal;
  }

  /** The program, started if necessary. Throws `late` if it does not start in time. */
  use(signal?: AbortSignal): Promise<T> {
    const starting = (this.#starting ??= this.#start(this.#parts.startDelaysMs ?? [0]));
    return withDeadline(limits.pagerWaitMs, signal, this.#parts.late, () => starting);
  }

  /** The program, if it is connected at this moment. */
  ifUp(): T | null {
    return this.closing.aborted ? null : this.#daemon;
  }

  /** Resolves when a start that is under way has succeeded or failed. */
  async settled(): Promise<void> {
    await this.#starting?.catch(() => undefined);
  }

  /** Starts nothing any more. */
  abort(): void {
    this.#closed.abort(new ApiError('shutting_down', 'The controller is ending.'));
  }

  /** Disconnects, or ends the program, even one that an earlier controller left and this one never needed. */
  async close({ end }: { end: boolean }): Promise<void> {
    this.abort();
    const known = this.#daemon;
    this.#daemon = null;
    if (end) await this.#end(known);
    if (known !== null) this.#parts.disconnect(known);
  }

  async #end(known: T | null): Promise<void> {
    const { socket, connect, title, log } = this.#parts;
    if (known === null && (await stat(socket).catch(() => null)) === null) return;
    try {
      await (known ?? (await connect())).shutdown();
    } catch (error) {
      log.warn({ reason: messageOf(error) }, `could not end ${title}`);
    }
  }

  async #start(delaysMs: readonly number[]): Promise<T> {
    const { title, log } = this.#parts;
    let failure: unknown;
    for (const delayMs of delaysMs) {
      await sleep(delayMs, this.closing);
      try {
        return await this.#startOnce();
      } catch (error) {
        failure = error;
        log.warn({ reason: messageOf(error) }, `could not start ${title}`);
      }
    }
    this.#starting = null;
    throw toApiError(failure);
  }

  async #startOnce(): Promise<T> {
    const { title, pidField, connect, disconnect, prepare, log } = this.#parts;
    this.closing.throwIfAborted();
    const daemon = await connect(this.closing);
    try {
      const fields = await prepare?.(daemon);
      this.closing.throwIfAborted();
      this.#daemon = daemon;
      log.info({ [pidField]: daemon.pid, ...fields }, `${title} is up`);
      daemon.gone
        .then(() => this.#lost(daemon))
        .catch((error: unknown) => log.error({ err: error }, `could not start ${title} again`));
      return daemon;
    } catch (error) {
      disconnect(daemon);
      throw error;
    }
  }

  #lost(daemon: T): void {
    if (this.#daemon !== daemon || this.closing.aborted) return;
    const { title, pidField, onLost, log } = this.#parts;
    this.#daemon = null;
    log.error({ [pidField]: daemon.pid }, onLost ? `${title} is gone` : `${title} is gone: starting another`);
    this.#starting = onLost ? null : this.#start(limits.pagerRestartDelaysMs);
    this.#starting?.catch(() => undefined);
    onLost?.();
  }
}
