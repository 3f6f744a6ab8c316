import type { PruneSnapshotsRequest, PruneSnapshotsResponse } from '@forkd/api';
import { ApiError } from '@forkd/api';
import type { StoredSnapshot } from '@forkd/store';
import { ancestorsOf } from '@forkd/store';
import type { Logger } from 'pino';

import { messageOf } from '../errors.ts';
import type { Catalog } from './catalog.ts';
import type { Removal, ReservedBy } from './removal.ts';

/** Removes branches by age and by number. Templates, and what others need, stay. */
export class Pruning {
  readonly #catalog: Catalog;
  readonly #removal: Removal;
  readonly #reservedBy: ReservedBy;

  constructor(parts: { catalog: Catalog; removal: Removal; reservedBy: ReservedBy }) {
    this.#catalog = parts.catalog;
    this.#removal = parts.removal;
    this.#reservedBy = parts.reservedBy;
  }

  /** Prunes now and then, until what it returns is called. */
  every(intervalMs: number, request: PruneSnapshotsRequest, log: Logger): () => void {
    const round = () =>
      this.prune(request).then(
        ({ removed }) => removed.length > 0 && log.info({ removed }, 'removed branches that are old or too many'),
        (error: unknown) => log.warn({ reason: messageOf(error) }, 'could not prune the snapshots'),
      );
    void round();
    const timer = setInterval(() => void round(), intervalMs).unref();
    return () => clearInterval(timer);
  }

  async prune(request: PruneSnapshotsRequest): Promise<PruneSnapshotsResponse> {
    const { older_than_secs: olderThanSecs, keep, dry_run: dryRun = false } = request;
    if (olderThanSecs == null && keep == null) {
      throw new ApiError('bad_request', 'prune: one of older_than_secs and keep is needed.');
    }
    const all = await this.#catalog.stored();
    const due = dueOf(all, olderThanSecs ?? null, keep ?? null);
    const removed: string[] = [];
    const kept: PruneSnapshotsResponse['kept'] = [];
    // The deepest first: what only others need that go too can go after them.
    for (const { tag } of due.toSorted((a, b) => ancestorsOf(b.tag, all).length - ancestorsOf(a.tag, all).length)) {
      const reason = await this.#whyKept(tag, new Set(removed));
      if (reason !== null) kept.push({ tag, reason });
      else if (dryRun || (await this.#remove(tag, kept))) removed.push(tag);
    }
    return { removed, kept };
  }

  async #whyKept(tag: string, gone: ReadonlySet<string>): Promise<string | null> {
    const owner = this.#reservedBy(tag);
    if (owner !== null) return owner;
    const dependents = (await this.#catalog.dependents(tag)).filter((name) => !gone.has(name));
    return dependents.length === 0 ? null : `${dependents.map((name) => `'${name}'`).join(', ')} came from it`;
  }

  /** Another may have come to need it, or removed it, in the meantime. */
  async #remove(tag: string, kept: PruneSnapshotsResponse['kept']): Promise<boolean> {
    try {
      await this.#removal.remove(tag, {});
      return true;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.code !== 'not_found_snapshot') kept.push({ tag, reason: error.message });
      return false;
    }
  }
}

/** The branches that are older than that, and those that are not among the newest of their template. */
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
