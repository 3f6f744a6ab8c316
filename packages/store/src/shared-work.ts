interface Work {
  done: Promise<void>;
  abort: AbortController;
  waiting: number;
}

/** Work by key, which callers at the same time share. It is cancelled once all of them have given up. */
export class SharedWork<Key> {
  readonly #works = new Map<Key, Work>();

  /** Waits for the work under `key`, and starts it if it is not under way. Throws the reason of `signal` if that fires. */
  async run(key: Key, start: (signal: AbortSignal) => Promise<void>, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    const work = this.#works.get(key) ?? this.#begin(key, start);
    work.waiting += 1;
    let onAbort = () => {};
    const gaveUp = new Promise<never>((_, reject) => (onAbort = () => reject(signal?.reason as Error)));
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await Promise.race([work.done, gaveUp]);
    } finally {
      signal?.removeEventListener('abort', onAbort);
      work.waiting -= 1;
      if (work.waiting === 0) this.#end(key, work);
    }
  }

  #begin(key: Key, start: (signal: AbortSignal) => Promise<void>): Work {
    const abort = new AbortController();
    const work = { done: start(abort.signal), abort, waiting: 0 };
    // Avoid an unhandled rejection if every caller has given up.
    work.done.catch(() => undefined);
    this.#works.set(key, work);
    return work;
  }

  #end(key: Key, work: Work): void {
    work.abort.abort();
    if (this.#works.get(key) === work) this.#works.delete(key);
  }
}
