import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ApiError } from '@forkd/api';
import { type Engine, Pager } from '@forkd/engine';
import type { Logger } from 'pino';
import { requireBinary } from '../binaries.ts';
import { sleep, withDeadline } from '../deadline.ts';
import { messageOf, toApiError } from '../errors.ts';
import { limits } from '../limits.ts';
import { type EngineParts, type ProbedEngine, createEngine } from './engines.ts';

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
  readonly #log: Logger;
  readonly #closed = new AbortController();
  #engine: ProbedEngine | null = null;
  /** The engine that is being made: two at a time would write the same files. */
  #ensuring: Promise<Engine> | null = null;
  /** The pager that is up or starting. `null` before the first start, and after a failed one. */
  #starting: Promise<Pager> | null = null;
  #pager: Pager | null = null;
  #onNewPager: OnNewPager = async () => undefined;

  constructor(parts: EngineParts) {
    this.#parts = parts;
    this.#log = parts.log;
  }

  onNewPager(handler: OnNewPager): void {
    this.#onNewPager = handler;
  }

  /** The runtime, started if necessary. Throws `pager_unavailable` if it does not start in time. */
  async use(signal?: AbortSignal): Promise<Runtime> {
    const starting = (this.#starting ??= this.#start([0]));
    const late = () => new ApiError('pager_unavailable', 'The pager has not come up in time.');
    const pager = await withDeadline(limits.pagerWaitMs, signal, late, () => starting);
    return { pager, engine: await this.#ensureEngine(pager) };
  }

  /** The pager, if one is connected at this moment. */
  pagerIfUp(): Pager | null {
    return this.#pager;
  }

  /** The engine, once it is up; `null` if nothing has needed it so far, or if it does not start. */
  async engineOnceUp(): Promise<Engine | null> {
    if (this.#engine === null) await this.#starting?.catch(() => null);
    return this.#engine?.engine ?? null;
  }

  /** Disconnects from the pager, or ends it, even one that an earlier controller left and this one never needed. */
  async close(options: { endPager: boolean }): Promise<void> {
    this.#closed.abort(new ApiError('shutting_down', 'The controller is ending.'));
    const pager = this.#pager;
    this.#pager = null;
    await this.#ensuring?.catch(() => null);
    await this.#engine?.engine.close();
    if (options.endPager) await this.#endPager(pager);
    pager?.close();
  }

  async #endPager(known: Pager | null): Promise<void> {
    const { paths, binaries } = this.#parts;
    const { run: runDir, store: storeDir } = paths;
    if (known === null && (await stat(join(runDir, 'pager.sock')).catch(() => null)) === null) return;
    try {
      const pager = known ?? (await Pager.ensure({ bin: binaries.pager, runDir, storeDir }));
      await pager.shutdown();
    } catch (error) {
      this.#log.warn({ reason: messageOf(error) }, 'could not end the pager');
    }
  }

  async #start(delaysMs: readonly number[]): Promise<Pager> {
    let failure: unknown;
    for (const delayMs of delaysMs) {
      await sleep(delayMs, this.#closed.signal);
      try {
        return await this.#startOnce();
      } catch (error) {
        failure = error;
        this.#log.warn({ reason: messageOf(error) }, 'could not start the pager');
      }
    }
    this.#starting = null;
    throw toApiError(failure);
  }

  async #startOnce(): Promise<Pager> {
    const signal = this.#closed.signal;
    signal.throwIfAborted();
    const { paths, binaries } = this.#parts;
    const bin = await requireBinary(binaries, 'pager');
    const pager = await Pager.ensure({ bin, runDir: paths.run, storeDir: paths.store, signal });
    try {
      await pager.limitLayers(this.#parts.layerCacheBytes);
      const engine = await this.#ensureEngine(pager);
      await this.#onNewPager({ engine, pager });
      signal.throwIfAborted();
      this.#pager = pager;
      this.#log.info({ pager_pid: pager.pid, accelerator: engine.accelerator }, 'the pager is up');
      pager.gone
        .then(() => this.#lost(pager))
        .catch((error: unknown) => this.#log.error({ err: error }, 'could not start another pager'));
      return pager;
    } catch (error) {
      pager.close();
      throw error;
    }
  }

  #lost(pager: Pager): void {
    if (this.#pager !== pager || this.#closed.signal.aborted) return;
    this.#log.error({ pager_pid: pager.pid }, 'the pager is gone: starting another');
    this.#pager = null;
    const starting = this.#start(limits.pagerRestartDelaysMs);
    this.#starting = starting;
    starting.catch(() => undefined);
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
    this.#engine = await createEngine(this.#parts, pager, this.#closed.signal);
    return this.#engine.engine;
  }
}
