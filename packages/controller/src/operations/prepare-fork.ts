import { memBytesOf } from '@forkd/api';
import { raceAbort } from '../deadline.ts';
import { messageOf } from '../errors.ts';
import { machineFor } from '../runtime/engines.ts';
import type { Host } from './host.ts';
import { loadableOf } from './loadable.ts';

type PrepareHost = Pick<Host, 'catalog' | 'registry' | 'store' | 'vmm' | 'log'>;

/** VMMs that wait for the first fork: one loads the snapshot, and one is for any other. */
const PREPARED = 2;

/**
 * Prepares the first fork after a start, so that it takes no longer than later ones: starts the pager and the engine, reads
 * the memory of the snapshot that was forked last, and starts VMMs for it. Does nothing without snapshots. Runs until it is
 * done or the returned function is called.
 */
export function prepareFork(host: PrepareHost): () => Promise<void> {
  const abort = new AbortController();
  const done = prepare(host, abort.signal).catch((error: unknown) => {
    // A fork that needs it will try it again, and tell its caller what is wrong.
    if (!abort.signal.aborted) host.log.debug({ reason: messageOf(error) }, 'could not prepare the first fork');
  });
  return async () => {
    abort.abort(new Error('the controller is ending'));
    await done;
  };
}

async function prepare({ catalog, registry, store, vmm, log }: PrepareHost, signal: AbortSignal): Promise<void> {
  const tag = await nextTag({ catalog, registry });
  if (tag === undefined) return;
  const { engine, pager } = await vmm.use(signal);
  const source = await catalog.forkSource(tag);
  const machine = machineFor(engine, tag, source.machine);
  const shape = { machine, rootImage: store.blobPath(source.rootDisk.digest) };
  signal.throwIfAborted();
  const loading = pager.load(memBytesOf(machine), source.stack);
  await Promise.all([engine.startAhead(shape, pager, PREPARED, loadableOf(store, source)), raceAbort(loading, signal)]);
  log.debug({ tag }, 'prepared the first fork');
}

/** The snapshot that is most likely forked next: the one that was forked last, otherwise the newest. */
async function nextTag({ catalog, registry }: Pick<PrepareHost, 'catalog' | 'registry'>): Promise<string | undefined> {
  const snapshots = await catalog.stored();
  const tags = new Set(snapshots.map(({ tag }) => tag));
  const sandboxes = [...registry.list().map((sandbox) => sandbox.info()), ...registry.ended.list()];
  const forked = sandboxes.filter((sandbox) => tags.has(sandbox.snapshot_tag));
  const newest = snapshots.toSorted((a, b) => b.config.created_at_unix - a.config.created_at_unix)[0]?.tag;
  return forked.toSorted((a, b) => b.created_at_unix - a.created_at_unix)[0]?.snapshot_tag ?? newest;
}
