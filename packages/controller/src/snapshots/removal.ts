import { ApiError } from '@forkd/api';
import type { DeleteSnapshotQuery } from '@forkd/api';
import type { Store } from '@forkd/store';
import { descendantsOf } from '@forkd/store';

import { toApiError } from '../errors.ts';
import type { EventLog } from '../events.ts';
import type { Catalog } from './catalog.ts';
import { assertTag } from './catalog.ts';
import type { Housekeeping } from './housekeeping.ts';

/** For whom a snapshot must stay, in words, such as the workspace whose state it is. */
export type ReservedBy = (tag: string) => string | null;

/** Removes snapshots. */
export class Removal {
  readonly #catalog: Catalog;
  readonly #store: Store;
  readonly #housekeeping: Housekeeping;
  readonly #events: EventLog;
  readonly #reservedBy: ReservedBy;

  constructor(parts: {
    catalog: Catalog;
    store: Store;
    housekeeping: Housekeeping;
    events: EventLog;
    reservedBy: ReservedBy;
  }) {
    this.#catalog = parts.catalog;
    this.#store = parts.store;
    this.#housekeeping = parts.housekeeping;
    this.#events = parts.events;
    this.#reservedBy = parts.reservedBy;
  }

  /**
   * `cascade` takes all that descends from it along; `force` leaves those, which still run since the layers that they
   * share with it stay. Sandboxes that run from it are not touched.
   */
  async remove(tag: string, { cascade = false, force = false }: DeleteSnapshotQuery): Promise<void> {
    assertTag(tag);
    if (cascade && force) {
      throw new ApiError('bad_request', `snapshot '${tag}': cascade and force exclude each other.`);
    }
    this.#assertSettled(tag, tag);
    if (this.#catalog.dropFailed(tag)) {
      this.#events.emit('snapshot.removed', { snapshot: tag });
      return;
    }
    const dependents = await this.#catalog.dependents(tag);
    if (dependents.length > 0 && !cascade && !force) {
      const names = dependents.map((name) => `'${name}'`).join(', ');
      const sentence = `Snapshot '${tag}' has dependents: ${names}. ?cascade=true removes them too, ?force=true only it.`;
      throw new ApiError('has_dependents', sentence, { details: { dependents } });
    }
    const all = cascade ? await this.#catalog.stored() : [];
    const tags = [...new Set([...descendantsOf(tag, all), tag])];
    if (cascade) {
      for (const name of tags)
        for (const child of await this.#catalog.dependents(name)) this.#assertSettled(child, tag);
    }
    const reserved = tags.find((name) => this.#reservedBy(name) !== null);
    if (reserved !== undefined && !force) {
      const sentence = `Snapshot '${reserved}' cannot be removed: ${this.#reservedBy(reserved)}.`;
      throw new ApiError('has_dependents', sentence, {
        hint: 'Delete the workspace, or remove only this one with --force.',
      });
    }
    try {
      await this.#store.remove(...tags);
    } catch (error) {
      throw toApiError(error);
    }
    for (const removed of tags) this.#events.emit('snapshot.removed', { snapshot: removed });
    this.#housekeeping.request();
  }

  /** Those whose makers were never told of them, so that they can be made anew. What others have come to need stays. */
  async removeUnseen(tags: readonly string[]): Promise<void> {
    for (const tag of tags) {
      try {
        await this.remove(tag, {});
      } catch (error) {
        const { code } = toApiError(error);
        if (code !== 'not_found_snapshot' && code !== 'has_dependents') throw error;
      }
    }
  }

  #assertSettled(tag: string, asked: string): void {
    if (this.#catalog.draft(tag)?.inFlight !== true) return;
    const what = tag === asked ? '' : `, which descends from '${asked}',`;
    throw new ApiError('snapshot_in_flight', `Snapshot '${tag}'${what} is still being written.`);
  }
}
