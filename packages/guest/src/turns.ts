/**
 * Shares the event loop between all that comes in bulk: what guests send, the replies that it becomes, and large bodies of
 * requests. Each round of the loop wakes one waiter, in the order of arrival, so that a small request waits for one
 * piece of work at most, however many send at once.
 */
export class Turns {
  readonly #waiting: (() => void)[] = [];

  /** Whether others wait for their turn. */
  get isCrowded(): boolean {
    return this.#waiting.length > 0;
  }

  /** Fulfilled when the caller's turn has come. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      if (this.#waiting.length === 1) this.#schedule();
    });
  }

  #schedule(): void {
    setImmediate(() => {
      this.#waiting.shift()?.();
      if (this.#waiting.length > 0) this.#schedule();
    });
  }
}

/** The queue of this process. */
export const turns = new Turns();
