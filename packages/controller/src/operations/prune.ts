import { ApiError, type PruneSnapshotsRequest, type PruneSnapshotsResponse } from '@forkd/api';
import { ancestorsOf, type StoredSnapshot } from '@forkd/store';
import { messageOf } from '../errors.ts';
import type { Host } from './host.ts';
import { removeSnapshot } from './remove.ts';

/** Prunes at once and at each interval, until the returned function is called. */
export function pruneEvery(host: Host, intervalMs: number, request: PruneSnapshotsRequest): () => void {
  const { log } = host;
  const round = (): void => {
    prune(host, request).then(
      ({ removed }) => removed.length > 0 && log.info({ removed }, 'removed branches that are old or too many'),
      (error: unknown) => log.warn({ reason: messageOf(error) }, 'could not prune the snapshots'),
    );
  };
  round();
  const timer = setInterval(round, intervalMs).unref();
  return () => clearInterval(timer);
}

/** Removes branches by age and by number. Templates stay, and so do snapshots that others need. */
export async function prune(host: Host, request: PruneSnapshotsRequest): Promise<PruneSnapshotsResponse> {
  const { older_than_secs: olderThanSecs, keep, dry_run: dryRun = false } = request;
  if (olderThanSecs == null && keep == null) {
    throw new ApiError('bad_request', 'A prune needs `older_than_secs` or `keep`.');
  }
  const all = await host.catalog.stored();
  const due = dueOf(all, olderThanSecs ?? null, keep ?? null);
  const removed: string[] = [];
  const kept: PruneSnapshotsResponse['kept'] = [];
  // The deepest branches are removed first, so that snapshots which only they need can follow.
  for (const { tag } of due.toSorted((a, b) => ancestorsOf(b.tag, all).length - ancestorsOf(a.tag, all).length)) {
    const reason = await whyKept(host, tag, new Set(removed));
    if (reason !== null) kept.push({ tag, reason });
    else if (dryRun || (await removeUnlessNeeded(host, tag, kept))) removed.push(tag);
  }
  return { removed, kept };
}

async function whyKept({ workspaces, catalog }: Host, tag: string, gone: ReadonlySet<string>): Promise<string | null> {
  const owner = workspaces.reservedBy(tag);
  if (owner !== null) return owner;
  const dependents = (await catalog.dependents(tag)).filter((name) => !gone.has(name));
  return dependents.length === 0 ? null : `${dependents.map((name) => `'${name}'`).join(', ')} came from it`;
}

/** Removes a snapshot, unless it was removed or another has come to need it in the meantime. */
async function removeUnlessNeeded(host: Host, tag: string, kept: PruneSnapshotsResponse['kept']): Promise<boolean> {
  try {
    await removeSnapshot(host, tag, {});
    return true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code !== 'not_found_snapshot') kept.push({ tag, reason: error.message });
    return false;
  }
}

/** The branches that are older than `olderThanSecs`, and all but the newest `keep` of each template. */
function dueOf(all: readonly StoredSnapshot[], olderThanSecs: number | null, keep: number | null): StoredSnapshot[] {
  const branches = all
    .filter(({ config }) => config.branched_from !== null)
    .toSorted((a, b) => b.config.created_at_unix - a.config.created_at_unix);
  const seen = new Map<string, number>();
  const nowUnix = Date.now() / 1000;
  return branches.filter(({ tag, config }) => {
    const template = ancestorsOf(tag, all)[0] ?? config.parent_tag ?? '';
    const rank = seen.get(template) ?? 0;
    seen.set(template, rank + 1);
    const isOld = olderThanSecs !== null && nowUnix - config.created_at_unix > olderThanSecs;
    return isOld || (keep !== null && rank >= keep);
  });
}
