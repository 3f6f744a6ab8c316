import type { Store } from '@forkd/store';
import type { Logger } from 'pino';

import type { Vmm } from '../runtime/vmm.ts';
import type { Pins } from './pins.ts';

/** Frees what no snapshot and no sandbox needs any more: blobs on disk, and layers that the pager holds in RAM. */
export class Housekeeping {
  readonly #store: Store;
  readonly #pins: Pins;
  readonly #vmm: Pick<Vmm, 'pagerIfUp'>;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  #running: Promise<void> | null = null;
  #again = false;

  constructor(store: Store, pins: Pins, vmm: Pick<Vmm, 'pagerIfUp'>, log: Logger) {
    this.#store = store;
    this.#pins = pins;
    this.#vmm = vmm;
    this.#log = log;
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
        if (!this.#stop.signal.aborted) this.#log.warn({ err: error }, 'could not free what is not needed any more');
      }
    }
  }

  async #round(): Promise<void> {
    const freedBytes = await this.#store.gc({
      inUse: () => this.#pins.current(),
      signal: this.#stop.signal,
      afterSweep: (keep) => this.#dropLayers(keep),
    });
    if (freedBytes > 0) this.#log.info({ freed_bytes: freedBytes }, 'removed blobs that nothing refers to');
  }

  async #dropLayers(keep: ReadonlySet<string>): Promise<void> {
    const pager = this.#vmm.pagerIfUp();
    if (pager === null) return;
    const { layers } = await pager.inventory();
    for (const { layer, digest } of layers) {
      if (keep.has(layer) || (digest !== null && keep.has(digest))) continue;
      await pager.dropLayer(layer);
    }
  }
}
