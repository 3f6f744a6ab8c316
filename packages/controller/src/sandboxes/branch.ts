import type { Attributes } from '@opentelemetry/api';
import type { BranchRequest, BranchPlan, SnapshotInfo } from '@forkd/api';
import { ApiError, branchPlan, defaultBranchTag } from '@forkd/api';
import type { BranchDone, BranchEvent, Vm } from '@forkd/engine';
import type { Blob, Store } from '@forkd/store';
import { asDigest } from '@forkd/store';
import type { Logger } from 'pino';

import type { Deferred } from '../deferred.ts';
import { deferred } from '../deferred.ts';
import { anySignal, sleep, withDeadline } from '../deadline.ts';
import { during, toApiError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Metrics } from '../observe/metrics.ts';
import { traced } from '../observe/tracing.ts';
import { assertCan } from '../runtime/abilities.ts';
import type { Vmm } from '../runtime/vmm.ts';
import type { Catalog } from '../snapshots/catalog.ts';
import { assertTag } from '../snapshots/catalog.ts';
import { statsOf } from '../snapshots/describe.ts';
import type { Draft, Origin } from '../snapshots/draft.ts';
import type { Housekeeping } from '../snapshots/housekeeping.ts';
import { vmOf } from './ask-vm.ts';
import type { Registry } from './registry.ts';
import type { Sandbox } from './sandbox.ts';

/** A branch under way. It goes on whether or not anybody waits for it. */
interface Flight {
  draft: Draft;
  sandbox: Sandbox;
  plan: BranchPlan;
  resumed: Deferred<void>;
  /** The source's count has been raised. */
  counted: boolean;
}

/** Makes snapshots of running sandboxes: at most `cap` at once, one of a sandbox. */
export class BranchService {
  readonly #catalog: Catalog;
  readonly #registry: Registry;
  readonly #store: Store;
  readonly #housekeeping: Housekeeping;
  readonly #vmm: Pick<Vmm, 'use'>;
  readonly #log: Logger;
  readonly #metrics: Metrics | undefined;
  readonly #cap: number;
  /** With the promise of its end, at which its slot is free. */
  readonly #flights = new Map<Flight, Promise<void>>();
  readonly #stop = new AbortController();

  constructor(parts: {
    catalog: Catalog;
    registry: Registry;
    store: Store;
    housekeeping: Housekeeping;
    vmm: Pick<Vmm, 'use'>;
    log: Logger;
    metrics?: Metrics;
    cap: number;
  }) {
    this.#catalog = parts.catalog;
    this.#registry = parts.registry;
    this.#store = parts.store;
    this.#housekeeping = parts.housekeeping;
    this.#vmm = parts.vmm;
    this.#log = parts.log;
    this.#metrics = parts.metrics;
    this.#cap = parts.cap;
  }

  /**
   * Resolves at the stage that was asked for. The slot is taken until the branch is durable or failed. `noteTag` is waited
   * for when the tag is taken and nothing has been made.
   */
  async branch(
    id: string,
    request: BranchRequest,
    noteTag: (tag: string) => Promise<void> = async () => {},
  ): Promise<SnapshotInfo> {
    const plan = branchPlan(request);
    await this.#settled();
    let sandbox = this.#registry.find(id);
    const tag = request.tag ?? defaultBranchTag(sandbox.id);
    assertTag(tag);
    assertParent(sandbox, request.parent_tag ?? null);
    await this.#vmm.use(sandbox.ended.signal);
    // It may have ended while the pager came up.
    sandbox = this.#registry.find(sandbox.id);
    const vm = vmOf(sandbox);
    const asked = `Branch of sandbox ${sandbox.id}: mode ${plan.mode} cannot be had`;
    assertCan(vm, plan.mode, asked, "Mode diff works. 'forkd doctor' says what is missing.");
    this.#assertFree(sandbox, tag);
    sandbox.branching = tag;
    let draft: Draft;
    try {
      draft = await this.#catalog.claim(factsOf(tag, sandbox));
      await noteTag(tag).catch((error: unknown) => {
        this.#catalog.discard(draft, error);
        throw error;
      });
    } catch (error) {
      sandbox.branching = null;
      throw error;
    }
    const flight: Flight = { draft, sandbox, plan, resumed: deferred(), counted: false };
    await this.#until(flight, this.#launch(flight, vm));
    return this.#catalog.describe(draft);
  }

  /** Waits for the branches under way, and cancels those that are not done when `signal` fires. */
  async close(signal: AbortSignal): Promise<void> {
    const cancel = () => this.#stop.abort(new ApiError('shutting_down', 'The controller is ending.'));
    signal.addEventListener('abort', cancel, { once: true });
    if (signal.aborted) cancel();
    await Promise.all(this.#flights.values());
    signal.removeEventListener('abort', cancel);
  }

  #assertFree(sandbox: Sandbox, tag: string): void {
    if (sandbox.branching !== null) {
      const sentence = `Branch '${tag}': a branch '${sandbox.branching}' of sandbox ${sandbox.id} is under way.`;
      throw new ApiError('branch_in_flight', sentence);
    }
    const inFlight = this.#registry.all().filter(({ branching }) => branching !== null).length;
    if (inFlight >= this.#cap) {
      const sentence = `Branch '${tag}' of sandbox ${sandbox.id}: ${inFlight} branches are under way, the cap is ${this.#cap}.`;
      throw new ApiError('branch_cap', sentence);
    }
  }

  #launch(flight: Flight, vm: Vm): Promise<void> {
    // Nobody may be waiting for this stage.
    flight.resumed.promise.catch(() => undefined);
    const landed = this.#fly(flight, vm).finally(() => {
      flight.sandbox.branching = null;
      this.#flights.delete(flight);
    });
    this.#flights.set(flight, landed);
    return landed;
  }

  /** What is listed as durable, or failed, has its slot for a moment yet: whoever has seen that can take the next branch. */
  async #settled(): Promise<void> {
    const over = [...this.#flights].filter(([{ draft }]) => !draft.inFlight);
    await Promise.all(over.map(([, landed]) => landed));
  }

  /** A caller who is told that it is over can take the next branch at once: the slot is free by then. */
  async #until({ plan, draft, resumed }: Flight, landed: Promise<void>): Promise<void> {
    const stages = { resumed: resumed.promise, ready: draft.whenReady, durable: draft.whenDurable };
    try {
      await stages[plan.until];
    } catch (error) {
      await landed;
      throw error;
    }
    if (plan.until === 'durable') await landed;
  }

  /** Never rejects: a failure is the draft's, and those who wait for the draft get it. */
  async #fly(flight: Flight, vm: Vm): Promise<void> {
    const { draft, sandbox, plan, resumed } = flight;
    const endWrite = await this.#store.beginWrite();
    const lost = new AbortController();
    // Once its memory is in RAM the branch needs the source no more.
    const onEnded = () => draft.state === 'writing' && lost.abort(sandbox.ended.signal.reason);
    sandbox.ended.signal.addEventListener('abort', onEnded);
    const signal = anySignal(this.#stop.signal, lost.signal);
    try {
      const late = () => new ApiError('branch_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
      const about = { 'forkd.sandbox': sandbox.id, 'forkd.snapshot': draft.tag, 'forkd.mode': plan.mode };
      await traced('branch', about, async (span) => {
        const done = await withDeadline(limits.branchTimeoutMs, signal, late, (inTime) =>
          vm.branch(
            { mode: plan.mode, resume: true },
            { signal: inTime, onEvent: (event) => this.#onEvent(flight, event) },
          ),
        );
        this.#registry.holdBuiltOn(sandbox);
        draft.stats = this.#stats(flight, done.stats);
        this.#count(flight);
        span.setAttributes(asAttributes(draft.stats));
        await traced('publish', {}, () => this.#publish(flight, done));
      });
      this.#metrics?.branched(plan.mode, draft.stats);
      this.#log.info({ tag: draft.tag, sandbox: sandbox.id, ...draft.stats }, 'branch is durable');
    } catch (error) {
      this.#metrics?.branchFailed(plan.mode);
      const cause = signal.aborted ? signal.reason : await whyOf(error, sandbox);
      const failure = during(`Branch '${draft.tag}' of sandbox ${sandbox.id}`, branchFailure(cause));
      this.#log.warn({ tag: draft.tag, sandbox: sandbox.id, code: failure.code }, failure.message);
      this.#catalog.fail(draft, failure);
      resumed.reject(failure);
      this.#housekeeping.request();
    } finally {
      sandbox.ended.signal.removeEventListener('abort', onEnded);
      resumed.resolve();
      endWrite();
    }
  }

  #onEvent(flight: Flight, event: BranchEvent): void {
    const { draft, sandbox, resumed } = flight;
    if (!draft.inFlight) return;
    draft.stats = this.#stats(flight, event.stats);
    this.#count(flight);
    if (event.stage === 'ready') {
      const { root_disk: rootDisk } = sandbox.record;
      this.#catalog.becomeReady(draft, { stack: event.stack, deviceState: blobOf(event.device_state), rootDisk });
    }
    resumed.resolve();
  }

  async #publish({ draft, sandbox }: Flight, done: BranchDone): Promise<void> {
    const { facts, ramStack } = draft;
    const { machine, image } = facts;
    if (machine === null || image === null) throw new Error(`branch '${draft.tag}' has no machine`);
    const parent = await this.#parent(sandbox, facts.parent);
    const memory = done.stack.map(blobOf);
    const stored = await this.#catalog.publish(draft, {
      config: {
        format: 1,
        tag: draft.tag,
        created_at_unix: facts.createdAtUnix,
        machine,
        image,
        source: facts.source,
        python: facts.python,
        parent_tag: parent?.tag ?? null,
        parent_digest: parent?.digest ?? null,
        branched_from: facts.branchedFrom,
        stats: draft.stats,
      },
      memory,
      deviceState: blobOf(done.device_state),
      rootDisk: sandbox.record.root_disk,
    });
    const top = memory.at(-1);
    const memoryPath = top === undefined ? null : this.#store.blobPath(top.digest);
    try {
      await this.#registry.rebase(ramStack, stored);
      await this.#registry.note(sandbox, { last_branch_memory_path: memoryPath });
    } catch (error) {
      // The snapshot is whole. What could not be noted matters only to a controller that is started again.
      this.#log.error({ err: error, tag: draft.tag }, 'could not note a branch in the records of sandboxes');
    }
  }

  /** The source counts a branch from the moment that it was taken. */
  #count(flight: Flight): void {
    const { sandbox } = flight;
    if (flight.counted) return;
    flight.counted = true;
    this.#registry
      .note(sandbox, { branch_count: sandbox.record.branch_count + 1 })
      .catch((error: unknown) => this.#log.error({ err: error, sandbox: sandbox.id }, 'could not count a branch'));
  }

  /** A parent that was itself in RAM when this branch began has its digest once it is durable. One that failed has none. */
  async #parent({ record }: Sandbox, parent: Origin | null): Promise<Origin | null> {
    if (parent === null || parent.digest !== null) return parent;
    const draft = this.#catalog.draft(parent.tag);
    if (draft?.inFlight !== true) return { tag: parent.tag, digest: record.snapshot_digest };
    const stored = await draft.whenDurable.catch(() => null);
    return { tag: parent.tag, digest: stored?.manifest.digest ?? null };
  }

  #stats({ draft, plan }: Flight, stats: BranchDone['stats']): Record<string, number> {
    return statsOf(stats, plan.mode, draft.facts.machine?.mem_mib ?? 0);
  }
}

/** That a VMM has ended is seen first by who talks to it, and only a moment later by who knows how it ended. */
async function whyOf(failure: unknown, { ended }: Sandbox): Promise<unknown> {
  if (toApiError(failure).code !== 'engine_failed') return failure;
  await sleep(limits.vmEndNoticeMs, ended.signal).catch(() => undefined);
  return ended.signal.aborted ? ended.signal.reason : failure;
}

/** What the engine could not do is this branch's failure, and its source runs on. */
function branchFailure(error: unknown): ApiError {
  const failure = toApiError(error);
  if (failure.code !== 'engine_failed') return failure;
  return new ApiError('branch_failed', failure.message, { cause: error });
}

function factsOf(tag: string, { id, record }: Sandbox) {
  if (record.vm === null) throw new Error(`sandbox ${id} runs without a VM`);
  return {
    tag,
    createdAtUnix: Math.floor(Date.now() / 1000),
    machine: record.vm.machine,
    image: record.image,
    source: record.source,
    python: record.python,
    parent: { tag: record.snapshot_tag, digest: record.snapshot_digest },
    branchedFrom: id,
  };
}

/** The parent is what the sandbox was started from; a caller who thinks otherwise is told so. */
function assertParent({ id, record }: Sandbox, parentTag: string | null): void {
  if (parentTag === null || parentTag === record.snapshot_tag) return;
  const sentence = `Branch of sandbox ${id}: its parent is '${record.snapshot_tag}', not '${parentTag}'.`;
  throw new ApiError('bad_request', sentence, { hint: 'Leave parent_tag out.' });
}

function blobOf({ digest, size }: { digest: string; size: number }): Blob {
  return { digest: asDigest(digest), size };
}

/** Under names that no other program's spans have. */
function asAttributes(stats: Readonly<Record<string, number>>): Attributes {
  return Object.fromEntries(Object.entries(stats).map(([name, value]) => [`forkd.${name}`, value]));
}
