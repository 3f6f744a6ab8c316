import { stat } from 'node:fs/promises';
import { join } from 'node:path';

import { ApiError } from '@forkd/api';
import type { Engine } from '@forkd/engine';
import { Pager } from '@forkd/engine';
import type { Logger } from 'pino';

import { requireBinary } from '../binaries.ts';
import { sleep, withDeadline } from '../deadline.ts';
import { messageOf, toApiError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { EngineParts, ProbedEngine } from './engines.ts';
import { createEngine } from './engines.ts';

/** What VMs are run with. */
export interface Runtime {
  engine: Engine;
  pager: Pager;
}

/** Called with a new pager before anybody else gets it: running VMs must be announced to it first. */
export type OnNewPager = (runtime: Runtime) => Promise<void>;

/**
 * The engine and the pager, started when they are first needed. A pager that is lost is started again and told of the
 * VMs that run; requests wait for that, for a bounded time.
 */
export class Vmm {
  readonly #parts: EngineParts;
  readonly #log: Logger;
  readonly #closed = new AbortController();
  #engine: Promise<ProbedEngine> | null = null;
  /** The one that is up or coming up. `null` before the first, and after one could not be started. */
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

  /** The runtime, started if need be. Throws `pager_unavailable` when it is not there in time. */
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

  /** Lets go of the pager, or ends it, also one that an earlier controller left and this one never needed. */
  async close(options: { endPager: boolean }): Promise<void> {
    this.#closed.abort(new ApiError('shutting_down', 'The controller is ending.'));
    const pager = this.#pager;
    this.#pager = null;
    await (await this.#engine?.catch(() => null))?.engine.close();
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
      const engine = await this.#ensureEngine(pager);
      await this.#onNewPager({ engine, pager });
      signal.throwIfAborted();
      this.#pager = pager;
      this.#log.info({ pager_pid: pager.pid, accelerator: engine.accelerator }, 'the pager is up');
      void pager.gone.then(() => this.#lost(pager));
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

  /** The engine. One that could only guess its accelerator is made again when there is a kernel to try it with. */
  async #ensureEngine(pager: Pager): Promise<Engine> {
    const known = await this.#engine;
    if (known !== null && (known.probed || (await this.#parts.boot.known()) === null)) return known.engine;
    await known?.engine.close();
    const creating = createEngine(this.#parts, pager, this.#closed.signal);
    this.#engine = creating;
    creating.catch(() => {
      this.#engine = null;
    });
    return (await creating).engine;
  }
}
