import type { Logger } from 'pino';

type Release = () => void | Promise<void>;

/**
 * Owns what an operation acquires, and releases it in reverse. A release that fails is logged and does not keep the
 * others from running: what made the scope end matters more.
 */
export class Scope {
  readonly #releases: { what: string; release: Release }[] = [];
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** `what` names the thing in the log, should its release fail. */
  defer(what: string, release: Release): void {
    this.#releases.push({ what, release });
  }

  async close(): Promise<void> {
    for (let entry = this.#releases.pop(); entry !== undefined; entry = this.#releases.pop()) {
      try {
        await entry.release();
      } catch (error) {
        this.#log.error({ err: error }, `could not release ${entry.what}`);
      }
    }
  }
}

/** Runs `body` with a scope that ends with it, whatever happens. */
export async function withScope<T>(log: Logger, body: (scope: Scope) => Promise<T>): Promise<T> {
  const scope = new Scope(log);
  try {
    return await body(scope);
  } finally {
    await scope.close();
  }
}
