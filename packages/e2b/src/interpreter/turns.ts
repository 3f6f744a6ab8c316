import { raceAbort } from '../abort.ts';

/** Lets the holders of a key go one after the other. */
export class Turns {
  readonly #last = new Map<string, Promise<void>>();

  /** Resolves when it is the caller's turn, with a function that ends the turn. */
  async begin(key: string, signal: AbortSignal): Promise<() => void> {
    const before = this.#last.get(key) ?? Promise.resolve();
    let end = (): void => undefined;
    const turn = new Promise<void>((resolve) => (end = resolve));
    const last = before.then(() => turn);
    this.#last.set(key, last);
    const done = (): void => {
      end();
      if (this.#last.get(key) === last) this.#last.delete(key);
    };
    try {
      await raceAbort(before, signal);
      return done;
    } catch (error) {
      done();
      throw error;
    }
  }
}
