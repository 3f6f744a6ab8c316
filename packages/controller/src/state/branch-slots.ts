import { ApiError } from '@forkd/api';
import { settledWithin } from '../deadline.ts';
import { limits } from '../limits.ts';
import type { Draft } from './draft.ts';

/** The branches under way. Each keeps its slot until it is durable or failed, and has released everything. */
export class BranchSlots {
  readonly max: number;
  readonly #ends = new Map<Draft, Promise<void>>();
  readonly #cancel = new AbortController();

  constructor(max: number) {
    this.max = max;
  }

  /** Fires when the controller ends and waits for branches no longer. */
  get cancelled(): AbortSignal {
    return this.#cancel.signal;
  }

  /** Gives a draft a slot until `end` resolves. Resolves when the slot is free. */
  hold(draft: Draft, end: Promise<void>): Promise<void> {
    const freed = end.finally(() => this.#ends.delete(draft));
    this.#ends.set(draft, freed);
    return freed;
  }

  /**
   * Waits for the slots of finished branches: a caller who sees in the list that a branch is over can start the next. Waits
   * for a branch of `sandboxId` that is `ready`, too, for a bounded time.
   */
  async settled(sandboxId: string): Promise<void> {
    const ends = [...this.#ends];
    const over = ends.filter(([draft]) => !draft.inFlight);
    const ready = ends.filter(([draft]) => draft.state === 'ready' && draft.facts.branchedFrom === sandboxId);
    const written = ready.map(([, freed]) => settledWithin(limits.durableWaitMs, freed));
    await Promise.all([...over.map(([, freed]) => freed), ...written]);
  }

  /** Waits for the branches under way, and cancels those that are not done when `signal` fires. */
  async close(signal: AbortSignal): Promise<void> {
    const cancel = () => this.#cancel.abort(new ApiError('shutting_down', 'The controller is ending.'));
    signal.addEventListener('abort', cancel, { once: true });
    if (signal.aborted) cancel();
    await Promise.all(this.#ends.values());
    signal.removeEventListener('abort', cancel);
  }
}
