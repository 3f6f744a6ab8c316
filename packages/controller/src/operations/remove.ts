import { ApiError, type DeleteSnapshotQuery } from '@forkd/api';
import { descendantsOf } from '@forkd/store';
import { toApiError } from '../errors.ts';
import { assertTag, type Catalog } from '../state/catalog.ts';
import type { Host } from './host.ts';

type RemovalHost = Pick<Host, 'catalog' | 'store' | 'housekeeping' | 'events' | 'workspaces'>;

/**
 * Removes a snapshot. Branches that named it as their `parent_tag` keep it: `cascade` removes them too, `force` only it. The
 * layers that any branch shares with it stay, and so the branch still runs. Sandboxes that run from it are not touched.
 */
export async function removeSnapshot(
  host: RemovalHost,
  tag: string,
  { cascade = false, force = false }: DeleteSnapshotQuery,
): Promise<void> {
  const { catalog, store, housekeeping, events, workspaces } = host;
  assertTag(tag);
  if (cascade && force) {
    throw new ApiError('bad_request', `Snapshot '${tag}': cascade and force exclude each other.`);
  }
  await settle(catalog, tag, tag);
  if (catalog.dropFailed(tag)) {
    events.emit('snapshot.removed', { snapshot: tag });
    return;
  }
  const dependents = await catalog.dependents(tag);
  if (dependents.length > 0 && !cascade && !force) {
    const names = dependents.map((name) => `'${name}'`).join(', ');
    const sentence = `Snapshot '${tag}' has dependents: ${names}. ?cascade=true removes them too, ?force=true only it.`;
    throw new ApiError('has_dependents', sentence, { details: { dependents } });
  }
  const tags = cascade ? await familyOf(catalog, tag) : [tag];
  const reserved = tags.find((name) => workspaces.reservedBy(name) !== null);
  if (reserved !== undefined && !force) {
    const sentence = `Snapshot '${reserved}' cannot be removed: ${workspaces.reservedBy(reserved)}.`;
    throw new ApiError('has_dependents', sentence, {
      hint: 'Delete the workspace, or remove only this one with --force.',
    });
  }
  try {
    await store.remove(...tags);
  } catch (error) {
    throw toApiError(error);
  }
  for (const removed of tags) events.emit('snapshot.removed', { snapshot: removed });
  housekeeping.request();
}

/** Removes snapshots whose callers never had a reply, so that they can be made again. A snapshot with dependents stays. */
export async function removeUnseen(host: RemovalHost, tags: readonly string[]): Promise<void> {
  for (const tag of tags) {
    try {
      await removeSnapshot(host, tag, {});
    } catch (error) {
      const { code } = toApiError(error);
      if (code !== 'not_found_snapshot' && code !== 'has_dependents') throw error;
    }
  }
}

/** The snapshot and all its descendants. Descendants that are ready are written to disk first. */
async function familyOf(catalog: Catalog, tag: string): Promise<string[]> {
  for (;;) {
    const tags = [...new Set([...descendantsOf(tag, await catalog.stored()), tag])];
    const children = (await Promise.all(tags.map((name) => catalog.dependents(name)))).flat();
    const unsettled = children.filter((child) => catalog.draft(child)?.inFlight === true);
    if (unsettled.length === 0) return tags;
    for (const child of unsettled) await settle(catalog, child, tag);
  }
}

/** Waits for a snapshot that is ready to be on disk. Throws if it is still being captured. */
async function settle(catalog: Catalog, tag: string, asked: string): Promise<void> {
  await catalog.settled(tag);
  if (catalog.draft(tag)?.inFlight !== true) return;
  const what = tag === asked ? '' : `, which descends from '${asked}',`;
  throw new ApiError('snapshot_in_flight', `Snapshot '${tag}'${what} is still being written.`);
}
