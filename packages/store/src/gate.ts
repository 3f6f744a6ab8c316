/** Runs one task after the other. */
export class Mutex {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task);
    this.#last = result.catch(() => undefined);
    return result;
  }
}

/**
 * Keeps writers of blobs and the sweep of unreferenced blobs apart. A blob is written before the manifest that refers
 * to it, and a writer may find its blob there already: while one writes, no blob that looks unreferenced may go.
 */
export class WriteGate {
  #writers = 0;
  #sweep: Promise<unknown> | null = null;
  #idle: (() => void)[] = [];

  /** Waits for a sweep that runs (it only unlinks), then holds sweeps off until the returned function is called. */
  async enter(): Promise<() => void> {
    while (this.#sweep !== null) await this.#sweep;
    this.#writers += 1;
    let left = false;
    return () => {
      if (left) return;
      left = true;
      this.#writers -= 1;
      if (this.#writers === 0) for (const wake of this.#idle.splice(0)) wake();
    };
  }

  /** Runs `task` at the first moment without writers. Writers that come while it waits go first. */
  async sweep<T>(task: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    while (this.#writers > 0 || this.#sweep !== null) {
      signal?.throwIfAborted();
      if (this.#sweep !== null) await this.#sweep;
      else await this.#untilIdle(signal);
    }
    const running = task();
    this.#sweep = running.then(
      () => undefined,
      () => undefined,
    );
    try {
      return await running;
    } finally {
      this.#sweep = null;
    }
  }

  async #untilIdle(signal: AbortSignal | undefined): Promise<void> {
    let stop: (() => void) | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        this.#idle.push(resolve);
        stop = () => reject(signal?.reason);
        signal?.addEventListener('abort', stop);
      });
    } finally {
      if (stop !== undefined) signal?.removeEventListener('abort', stop);
    }
  }
}
