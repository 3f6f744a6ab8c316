import { Interrupted } from './errors.ts';

type InterruptHandler = (signal: 'SIGINT' | 'SIGTERM') => void;

const FORCE_AFTER = 2;
/** A terminal's Ctrl-C reaches us twice where the program that started us passes it on too: that is one press. */
const ONE_PRESS_MS = 200;

/**
 * Ctrl-C and SIGTERM: abort what is being done, so that it can clean up after itself, unless a verb has something better
 * to do with them for a while. Whoever insists ends the process at once.
 */
export class Interrupts {
  readonly #abort = new AbortController();
  #handler: InterruptHandler | undefined;
  #count = 0;
  #lastMs = Number.NEGATIVE_INFINITY;

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Installs itself on the process. @returns how to take it away again. */
  listen(): () => void {
    const onSignal = (signal: NodeJS.Signals) => this.#receive(signal === 'SIGTERM' ? 'SIGTERM' : 'SIGINT');
    process.on('SIGINT', onSignal);
    process.on('SIGTERM', onSignal);
    return () => {
      process.off('SIGINT', onSignal);
      process.off('SIGTERM', onSignal);
    };
  }

  /** Hands the signals to a verb until the returned function is called. */
  divert(handler: InterruptHandler): () => void {
    this.#handler = handler;
    return () => {
      if (this.#handler === handler) this.#handler = undefined;
    };
  }

  abort(signal: 'SIGINT' | 'SIGTERM'): void {
    this.#abort.abort(new Interrupted(signal));
  }

  #receive(signal: 'SIGINT' | 'SIGTERM'): void {
    if (this.#handler !== undefined) {
      this.#handler(signal);
      return;
    }
    const nowMs = performance.now();
    if (nowMs - this.#lastMs >= ONE_PRESS_MS) this.#count += 1;
    this.#lastMs = nowMs;
    if (this.#count >= FORCE_AFTER) process.exit(new Interrupted(signal).exitCode);
    this.abort(signal);
  }
}
