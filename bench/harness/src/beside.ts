import { anySignal } from '@forkd/engine';

type Work<Result> = (signal: AbortSignal) => Promise<Result>;

/**
 * Runs `main`, and `other` beside it until `main` has ended. A failure of either ends both and is thrown once both have
 * ended: nothing of a run may outlive it.
 */
export async function runBeside<Result>(
  signal: AbortSignal,
  main: Work<Result>,
  other: Work<unknown>,
): Promise<Result> {
  const stop = new AbortController();
  const both = anySignal(signal, stop.signal);
  const working = other(both);
  working.catch((error: unknown) => stop.abort(error));
  try {
    return await main(both);
  } finally {
    stop.abort();
    await working;
  }
}
