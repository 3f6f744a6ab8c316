import { join } from 'node:path';
import { ApiError } from '@forkd/api';
import { type Engine, Pager } from '@forkd/engine';
import { requireBinary } from '../binaries.ts';
import { type EngineParts, type ProbedEngine, createEngine } from './engines.ts';
import { Supervisor } from './supervisor.ts';

/** The engine and the pager that run VMs. */
export interface Runtime {
  engine: Engine;
  pager: Pager;
}

/** Called with a new pager before any request gets it: running VMs must be announced to the pager first. */
export type OnNewPager = (runtime: Runtime) => Promise<void>;

/**
 * The engine and the pager, started when they are first needed. A lost pager is started again, and the running VMs are
 * announced to it. Requests wait for that, for a limited time.
 */
export class Vmm {
  readonly #parts: EngineParts;
  readonly #supervisor: Supervisor<Pager>;
  #engine: ProbedEngine | null = null;
  /** The engine that is being made: two at a time would write the same files. */
  #ensuring: Promise<Engine> | null = null;
  #onNewPager: OnNewPager = async () => undefined;

  constructor(parts: EngineParts) {
    this.#parts = parts;
    const { paths, binaries, layerCacheBytes, log } = parts;
    this.#supervisor = new Supervisor({
      title: 'the pager',
      pidField: 'pager_pid',
      socket: join(paths.run, 'pager.sock'),
      connect: async (signal) => {
        const bin = await requireBinary(binaries, 'pager');
        return Pager.ensure({ bin, runDir: paths.run, storeDir: paths.store, ...(signal && { signal }) });
      },
      disconnect: (pager) => pager.close(),
      prepare: async (pager) => {
        await pager.limitLayers(layerCacheBytes);
        const engine = await this.#ensureEngine(pager);
        await this.#onNewPager({ engine, pager });
        return { accelerator: engine.accelerator };
      },
      late: () => new ApiError('pager_unavailable', 'The pager has not come up in time.'),
      log,
    });
  }

  onNewPager(handler: OnNewPager): void {
    this.#onNewPager = handler;
  }

  /** The runtime, started if necessary. Throws `pager_unavailable` if it does not start in time. */
  async use(signal?: AbortSignal): Promise<Runtime> {
    const pager = await this.#supervisor.use(signal);
    return { pager, engine: await this.#ensureEngine(pager) };
  }

  /** The pager, if one is connected at this moment. */
  pagerIfUp(): Pager | null {
    return this.#supervisor.ifUp();
  }

  /** The engine, once it is up; `null` if nothing has needed it so far, or if it does not start. */
  async engineOnceUp(): Promise<Engine | null> {
    if (this.#engine === null) await this.#supervisor.settled();
    return this.#engine?.engine ?? null;
  }

  /** Disconnects from the pager, or ends it, even one that an earlier controller left and this one never needed. */
  async close(options: { endPager: boolean }): Promise<void> {
    this.#supervisor.abort();
    await this.#ensuring?.catch(() => null);
    await this.#engine?.engine.close();
    await this.#supervisor.close({ end: options.endPager });
  }

  /** The engine. An engine that had to guess its accelerator is made again once there is a kernel for a trial. */
  #ensureEngine(pager: Pager): Promise<Engine> {
    this.#ensuring ??= this.#makeEngine(pager).finally(() => {
      this.#ensuring = null;
    });
    return this.#ensuring;
  }

  async #makeEngine(pager: Pager): Promise<Engine> {
    const known = this.#engine;
    if (known !== null && (known.probed || (await this.#parts.boot.known()) === null)) return known.engine;
    this.#engine = null;
    await known?.engine.close();
    this.#engine = await createEngine(this.#parts, pager, this.#supervisor.closing);
    return this.#engine.engine;
  }
}
