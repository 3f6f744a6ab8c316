import { GuestError } from './errors.ts';

/** How long a call may wait. Without `timeoutMs` the default of the call holds. */
export interface WaitOptions {
  signal?: AbortSignal | undefined;
  timeoutMs?: number | undefined;
}

/** Combines a deadline with the caller's signal. `signal` fires for either; its reason is a GuestError. */
export class Deadline {
  readonly signal: AbortSignal;
  readonly #controller = new AbortController();
  readonly #what: string;
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #outer: AbortSignal | undefined;
  readonly #onOuter = (): void => {
    this.#controller.abort(new GuestError('aborted', 'The call was aborted.', { cause: this.#outer?.reason }));
  };

  /** `timeoutMsDefault` undefined: no deadline unless the caller gives one. `what` names the wait in the error. */
  constructor(what: string, options: WaitOptions | undefined, timeoutMsDefault: number | undefined) {
    this.#what = what;
    this.signal = this.#controller.signal;
    this.#outer = options?.signal;
    if (this.#outer?.aborted) this.#onOuter();
    else this.#outer?.addEventListener('abort', this.#onOuter, { once: true });
    const timeoutMs = options?.timeoutMs ?? timeoutMsDefault;
    if (timeoutMs !== undefined) {
      this.#timer = setTimeout(() => this.expire(timeoutMs), timeoutMs);
    }
  }

  /** The time is over. */
  expire(timeoutMs: number): void {
    const message = `${this.#what} took longer than ${timeoutMs} ms.`;
    this.#controller.abort(new GuestError('guest_timeout', message));
  }

  /** Removes the deadline: from now on only the caller's signal ends the wait. */
  extend(): void {
    clearTimeout(this.#timer);
  }

  release(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener('abort', this.#onOuter);
  }
}
