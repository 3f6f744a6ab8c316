import type { ApiError } from '@forkd/api';
import { toApiError } from '../errors.ts';

/**
 * Runs `start` for each item, at most `parallel` at a time, until one fails. Then no more are begun, and the error is thrown
 * once all that were begun have settled.
 */
export async function startAll<T, R>(
  items: readonly T[],
  parallel: number,
  start: (item: T, index: number) => Promise<R>,
  onFailure: (error: unknown, index: number) => void,
): Promise<R[]> {
  const results = new Map<number, R>();
  let failure: { error: unknown } | null = null;
  let next = 0;
  const worker = async () => {
    while (failure === null && next < items.length) {
      const index = next;
      next += 1;
      try {
        results.set(index, await start(items[index] as T, index));
      } catch (error) {
        if (failure === null) onFailure(error, index);
        failure ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(parallel, items.length) }, worker));
  if (failure !== null) throw (failure as { error: unknown }).error;
  return items.map((_, index) => results.get(index) as R);
}

/** Runs `start` for each item, at most `parallel` at a time, even if some fail. */
export async function startEach<T, R>(
  items: readonly T[],
  parallel: number,
  start: (item: T) => Promise<R>,
): Promise<(R | ApiError)[]> {
  const each = (item: T): Promise<R | ApiError> => start(item).catch(toApiError);
  return startAll(items, parallel, each, () => undefined);
}
