import { messageOf } from '../errors.ts';
import type { Host } from './host.ts';

interface VerifyHost {
  catalog: Pick<Host['catalog'], 'stored'>;
  store: Pick<Host['store'], 'verifyOnce'>;
  log: Host['log'];
}

/**
 * Verifies the root images and device states of all snapshots, the newest first, so that the first fork does not wait for
 * them to be read. Runs until it is done or the returned function is called.
 */
export function verifyAhead(host: VerifyHost): () => Promise<void> {
  const abort = new AbortController();
  const done = verifyAll(host, abort.signal);
  return async () => {
    abort.abort(new Error('the controller is ending'));
    await done;
  };
}

async function verifyAll({ catalog, store, log }: VerifyHost, signal: AbortSignal) {
  try {
    const snapshots = (await catalog.stored()).toSorted((a, b) => b.config.created_at_unix - a.config.created_at_unix);
    for (const digest of new Set(snapshots.flatMap((one) => [one.rootDisk.digest, one.deviceState.digest]))) {
      if (signal.aborted) return;
      // A damaged or missing blob is told to the fork that needs it.
      await store.verifyOnce(digest, signal).catch(() => undefined);
    }
    log.debug({ snapshots: snapshots.length }, 'verified root images ahead of the first fork');
  } catch (error) {
    log.warn({ reason: messageOf(error) }, 'could not verify root images ahead of the first fork');
  }
}
