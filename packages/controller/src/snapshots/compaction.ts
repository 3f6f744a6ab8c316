import type { SnapshotInfo } from '@forkd/api';
import { ApiError } from '@forkd/api';
import type { Store } from '@forkd/store';
import { asDigest } from '@forkd/store';
import type { Logger } from 'pino';

import { withDeadline } from '../deadline.ts';
import { during } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Vmm } from '../runtime/vmm.ts';
import { machineFor } from '../runtime/engines.ts';
import type { Catalog } from './catalog.ts';
import type { Housekeeping } from './housekeeping.ts';
import type { Pins } from './pins.ts';

const mib = 1024 * 1024;

/** Writes snapshots anew whose memory is one layer: they need none of their ancestors, which can then be removed. */
export class Compaction {
  readonly #catalog: Catalog;
  readonly #store: Store;
  readonly #pins: Pins;
  readonly #housekeeping: Housekeeping;
  readonly #vmm: Pick<Vmm, 'use'>;
  readonly #log: Logger;

  constructor(parts: {
    catalog: Catalog;
    store: Store;
    pins: Pins;
    housekeeping: Housekeeping;
    vmm: Pick<Vmm, 'use'>;
    log: Logger;
  }) {
    this.#catalog = parts.catalog;
    this.#store = parts.store;
    this.#pins = parts.pins;
    this.#housekeeping = parts.housekeeping;
    this.#vmm = parts.vmm;
    this.#log = parts.log;
  }

  /** The new snapshot has no parent; that of `tag` stays as it is. */
  async compact(tag: string, to: string, signal: AbortSignal): Promise<SnapshotInfo> {
    if (tag === to) throw new ApiError('bad_request', `Snapshot '${tag}' cannot be compacted to itself.`);
    const source = await this.#catalog.forkSource(tag);
    if (source.digest === null) {
      throw new ApiError('not_forkable', `Snapshot '${tag}' is not on disk yet: only one that is can be compacted.`);
    }
    const unpin = this.#pins.hold([...source.stack, source.deviceState.digest, source.rootDisk.digest]);
    const endWrite = await this.#store.beginWrite();
    try {
      const { pager, engine } = await this.#vmm.use(signal);
      const machine = machineFor(engine, tag, source.machine);
      const draft = await this.#catalog.claim({
        tag: to,
        createdAtUnix: Math.floor(Date.now() / 1000),
        machine,
        image: source.image,
        source: source.source,
        python: source.python,
        parent: null,
        branchedFrom: null,
      });
      try {
        const late = () => new ApiError('engine_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
        const layer = await withDeadline(limits.branchTimeoutMs, signal, late, () =>
          pager.flatten(machine.mem_mib * mib, source.stack),
        );
        const memory = [{ digest: asDigest(layer.digest), size: layer.size }];
        const { config } = await this.#store.readSnapshot(tag);
        await this.#catalog.publish(draft, {
          config: {
            ...config,
            tag: to,
            created_at_unix: draft.facts.createdAtUnix,
            machine,
            parent_tag: null,
            parent_digest: null,
            branched_from: null,
            stats: {},
          },
          memory,
          deviceState: source.deviceState,
          rootDisk: source.rootDisk,
        });
        this.#log.info({ tag, to, layers: source.stack.length }, 'compacted');
        return this.#catalog.describe(draft);
      } catch (error) {
        this.#catalog.discard(draft, error);
        throw error;
      }
    } catch (error) {
      throw during(`Snapshot '${tag}' to '${to}'`, error);
    } finally {
      endWrite();
      unpin();
      this.#housekeeping.request();
    }
  }
}
