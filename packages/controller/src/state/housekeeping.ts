import type { Store } from '@forkd/store';
import type { Logger } from 'pino';
import type { StorePagers } from '../process/pagers.ts';
import type { Disks } from '../runtime/disks.ts';
import type { Vmm } from '../runtime/vmm.ts';
import type { Pins } from './pins.ts';

interface HousekeepingParts {
  store: Store;
  pins: Pins;
  vmm: Pick<Vmm, 'pagerIfUp'>;
  disks: Pick<Disks, 'ifUp'>;
  pagers: Pick<StorePagers, 'othersLive'>;
  log: Logger;
}

/** Frees what no snapshot and no sandbox needs any more: blobs on disk, and layers that the pager and the disk server hold. */
export class Housekeeping {
  readonly #parts: HousekeepingParts;
  readonly #stop = new AbortController();
  #running: Promise<void> | null = null;
  #again = false;

  constructor(parts: HousekeepingParts) {
    this.#parts = parts;
  }

  /** Asks for a round. Never waits, and any number of requests during a round make one more. */
  request(): void {
    if (this.#stop.signal.aborted) return;
    this.#again = true;
    this.#running ??= this.#rounds().finally(() => {
      this.#running = null;
    });
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error('the controller is ending'));
    await this.#running;
  }

  async #rounds(): Promise<void> {
    while (this.#again && !this.#stop.signal.aborted) {
      this.#again = false;
      try {
        await this.#round();
      } catch (error) {
        if (!this.#stop.signal.aborted)
          this.#parts.log.warn({ err: error }, 'could not free what is not needed any more');
      }
    }
  }

  async #round(): Promise<void> {
    const keepsAll = await this.#parts.pagers.othersLive();
    if (keepsAll)
      this.#parts.log.info('sandboxes of another data directory run from this store: nothing is removed from it');
    const freedBytes = await this.#parts.store.gc({
      keepsAll,
      inUse: () => this.#parts.pins.current(),
      signal: this.#stop.signal,
      afterSweep: async (keep) => {
        await this.#dropLayers(keep);
        await this.#dropDiskLayers(keep);
      },
    });
    if (freedBytes > 0) this.#parts.log.info({ freed_bytes: freedBytes }, 'removed blobs that nothing refers to');
  }

  async #dropLayers(keep: ReadonlySet<string>): Promise<void> {
    const pager = this.#parts.vmm.pagerIfUp();
    if (pager === null) return;
    const { layers } = await pager.inventory();
    for (const { layer, digest } of layers) {
      if (keep.has(layer) || (digest !== null && keep.has(digest))) continue;
      await pager.dropLayer(layer);
    }
  }

  async #dropDiskLayers(keep: ReadonlySet<string>): Promise<void> {
    const server = this.#parts.disks.ifUp();
    if (server === null) return;
    const { layers } = await server.inventory();
    await server.drop(layers.filter(({ layer, held }) => held && !keep.has(layer)).map(({ layer }) => layer));
  }
}
