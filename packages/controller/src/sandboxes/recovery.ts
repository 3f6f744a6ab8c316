import { join } from 'node:path';

import { ApiError } from '@forkd/api';
import type { EngineErrorCode, EngineName, Vm, VmRecord } from '@forkd/engine';
import { EngineError, isRunning, removeMemoryLimit } from '@forkd/engine';
import { removeTree } from '@forkd/store';
import type { Logger } from 'pino';

import { endProcess, findVmms } from '../process/strays.ts';
import type { Runtime, Vmm } from '../runtime/vmm.ts';
import type { Replies } from '../replies.ts';
import type { FoundRecord, SandboxRecord } from './record.ts';
import { readRecords } from './record.ts';
import { vmDirOf } from './sandbox.ts';
import type { Registry } from './registry.ts';

/** With these the next attempt may succeed. */
const pagersFault: readonly EngineErrorCode[] = [
  'pager_gone',
  'pager_missing',
  'pager_protocol',
  'cancelled',
  'out_of_memory',
];

/** What a controller found of those before it. */
export interface Found {
  adopted: number;
  ended: number;
  removed: number;
}

/** Takes over what runs, and clears away what does not: after a kill -9 as after an orderly end. */
export class Recovery {
  readonly #root: string;
  readonly #engine: EngineName;
  readonly #registry: Registry;
  readonly #vmm: Pick<Vmm, 'use'>;
  readonly #replies: Pick<Replies, 'wasCutOff'>;
  readonly #log: Logger;

  constructor(parts: {
    root: string;
    engine: EngineName;
    registry: Registry;
    vmm: Pick<Vmm, 'use'>;
    replies: Pick<Replies, 'wasCutOff'>;
    log: Logger;
  }) {
    this.#root = parts.root;
    this.#engine = parts.engine;
    this.#registry = parts.registry;
    this.#vmm = parts.vmm;
    this.#replies = parts.replies;
    this.#log = parts.log;
  }

  /**
   * At the start, before any request: every directory is either a running sandbox afterwards, or gone. Throws
   * `machine_mismatch`, with nothing touched, when another engine's sandboxes run.
   */
  async recover(): Promise<Found> {
    const found: Found = { adopted: 0, ended: 0, removed: 0 };
    const dead: FoundRecord[] = [];
    const alive: SandboxRecord[] = [];
    for (const entry of await readRecords(this.#root)) {
      const { record } = entry;
      if (record !== null && (await this.#isAdoptable(record))) alive.push(record);
      else dead.push(entry);
    }
    refuseOtherEngines(alive, this.#engine);
    if (alive.length > 0) {
      const runtime = await this.#vmm.use();
      for (const record of alive) {
        if (await this.#adopt(record, runtime)) found.adopted += 1;
        else dead.push({ id: record.id, dir: join(this.#root, record.id), record });
      }
      await this.#releaseForgotten(runtime);
    }
    found.ended = await this.#endStrays(dead);
    for (const { id, dir } of dead) {
      await removeMemoryLimit(vmDirOf(dir));
      await removeTree(this.#root, dir);
      found.removed += 1;
      this.#log.info({ sandbox: id }, 'removed what was left of a sandbox that does not run');
    }
    return found;
  }

  /** To a pager that has just been started, every VM that runs must be announced. */
  async readopt(runtime: Runtime): Promise<void> {
    for (const sandbox of this.#registry.all()) {
      const { record, state } = sandbox;
      if (state === 'starting') await this.#registry.end(sandbox, lostWithPager(sandbox.id));
      if (!sandbox.isThere || record.vm === null) continue;
      const vm = await this.#tryAdopt(record, record.vm, runtime);
      if (vm !== null && sandbox.isThere) this.#registry.attach(sandbox, vm);
      // A guest that cannot be reached again is of no use to anybody.
      else if (vm === null) await this.#registry.end(sandbox, lostWithPager(sandbox.id));
    }
    await this.#releaseForgotten(runtime);
  }

  /** What the pager holds for VMs that nobody knows any more: their controller was killed before it could say so. */
  async #releaseForgotten({ pager }: Runtime): Promise<void> {
    const known = new Set(this.#registry.all().map(({ id }) => id));
    const { sandboxes } = await pager.inventory();
    for (const { sandbox } of sandboxes) if (!known.has(sandbox)) await pager.release(sandbox);
  }

  /** One that was made for a request which never had its reply is nobody's: whoever asked asks again. */
  async #isAdoptable({ kind, state, vm, request_key: requestKey }: SandboxRecord): Promise<boolean> {
    if (kind !== 'sandbox' || state !== 'running' || vm === null) return false;
    if (requestKey !== null && this.#replies.wasCutOff(requestKey)) return false;
    return isRunning(vm);
  }

  async #adopt(record: SandboxRecord, runtime: Runtime): Promise<boolean> {
    const vm = record.vm === null ? null : await this.#tryAdopt(record, record.vm, runtime);
    if (vm === null) return false;
    this.#registry.adopt(record, vm);
    this.#log.info({ sandbox: record.id, pid: vm.record.pid }, 'took over a running sandbox');
    return true;
  }

  /** `null` for a VM that has ended or cannot be had back. Throws what is no fault of this VM: others must not pay for it. */
  async #tryAdopt({ paused }: SandboxRecord, vm: VmRecord, { engine, pager }: Runtime): Promise<Vm | null> {
    try {
      return await engine.adopt(vm, pager, paused);
    } catch (error) {
      if (!(error instanceof EngineError) || pagersFault.includes(error.code)) throw error;
      this.#log.error(
        { sandbox: vm.id, code: error.code, reason: error.message },
        'a running sandbox cannot be taken over',
      );
      return null;
    }
  }

  async #endStrays(dead: readonly FoundRecord[]): Promise<number> {
    let ended = 0;
    const strays = await findVmms(new Set(dead.map(({ dir }) => vmDirOf(dir))));
    for (const { record } of dead) {
      // Also one that has hidden itself from such a search.
      const vm = record?.vm ?? null;
      if (vm !== null && !strays.some(({ pid }) => pid === vm.pid) && (await isRunning(vm))) strays.push(vm);
    }
    for (const stray of strays) {
      const gone = await endProcess(stray);
      this.#log.warn({ ...stray, gone }, 'ended the process of a sandbox that was half-made or cannot be taken over');
      if (gone) ended += 1;
    }
    return ended;
  }
}

/** To take them for ended would end them: whoever mistook the option starts again with the other. */
function refuseOtherEngines(alive: readonly SandboxRecord[], engine: EngineName): void {
  const others = alive.filter(({ vm }) => vm !== null && vm.machine.engine !== engine);
  const theirs = others[0]?.vm?.machine.engine;
  if (theirs === undefined) return;
  const ids = others.map(({ id }) => id).join(', ');
  throw new ApiError(
    'machine_mismatch',
    `Sandboxes run with ${theirs}, and this controller is to run ${engine}: ${ids}.`,
    {
      hint: `Start it with --engine ${theirs}, or end them first: forkd stop --kill ends a controller with its sandboxes.`,
    },
  );
}

function lostWithPager(id: string): ApiError {
  return new ApiError('pager_unavailable', `Sandbox ${id} was lost when the pager ended.`);
}
