import { ApiError, type BranchPlan, type SnapshotNetwork } from '@forkd/api';
import { anySignal, type Vm, type VmBranchDone, type VmBranchEvent } from '@forkd/engine';
import { asDigest, type Blob } from '@forkd/store';
import type { Attributes } from '@opentelemetry/api';
import { withDeadline } from '../deadline.ts';
import { deferred } from '../deferred.ts';
import { toApiError, withContext } from '../errors.ts';
import { limits } from '../limits.ts';
import { traced } from '../observe/tracing.ts';
import { auditOf, statsOf } from '../state/describe.ts';
import type { Draft, Origin } from '../state/draft.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { waitForReason } from '../state/vm-end.ts';
import type { Host } from './host.ts';
import { markNetwork } from './mark-network.ts';
import { setClock } from './set-clock.ts';
import { StandStill } from './stand-still.ts';

/** A branch under way. It continues even if its caller does not wait. */
export class BranchInProgress {
  readonly #host: Host;
  readonly #sandbox: Sandbox;
  readonly #draft: Draft;
  readonly #plan: BranchPlan;
  readonly #resumed = deferred<void>();
  /** Set for `safety: strict`, once the programs of the source stand still. */
  #standStill: StandStill | null = null;
  /** The network of the snapshot, once the source runs again. */
  #network: Promise<SnapshotNetwork | null> | null = null;
  /** True once the source runs again, and its count of branches has been raised. */
  #sourceRuns = false;

  constructor(host: Host, sandbox: Sandbox, draft: Draft, plan: BranchPlan) {
    this.#host = host;
    this.#sandbox = sandbox;
    this.#draft = draft;
    this.#plan = plan;
  }

  /** Begins the branch. Resolves at the stage that the caller asked for. */
  async start(vm: Vm): Promise<void> {
    const draft = this.#draft;
    // Avoid an unhandled rejection if the caller does not wait for this stage.
    this.#resumed.promise.catch(() => undefined);
    const end = this.#run(vm).finally(() => {
      this.#sandbox.branching = null;
    });
    const freed = this.#host.branches.hold(draft, end);
    const stages = { resumed: this.#resumed.promise, ready: draft.whenReady, durable: draft.whenDurable };
    try {
      await stages[this.#plan.until];
    } catch (error) {
      // A caller who is told that the branch is over can start the next at once: the slot must be free by then.
      await freed;
      throw error;
    }
    if (this.#plan.until === 'durable') await freed;
  }

  /** Runs the branch to its end. Never rejects: the draft has the failure, and callers who wait for the draft get it. */
  async #run(vm: Vm): Promise<void> {
    const { catalog, log, metrics, branches } = this.#host;
    const draft = this.#draft;
    const sandbox = this.#sandbox;
    const { mode } = this.#plan;
    const lost = new AbortController();
    // The branch no longer needs its source once all of its memory is in RAM.
    const onEnded = () => draft.state === 'writing' && lost.abort(sandbox.ended.signal.reason);
    sandbox.ended.signal.addEventListener('abort', onEnded);
    const signal = anySignal(branches.cancelled, lost.signal);
    try {
      const about = { 'forkd.sandbox': sandbox.id, 'forkd.snapshot': draft.tag, 'forkd.mode': mode };
      await traced('branch', about, (span) =>
        catalog.write(
          draft,
          (error) => this.#explain(error, signal),
          async () => {
            const done = await this.#capture(vm, signal);
            span.setAttributes(asAttributes(draft.stats));
            await traced('publish', {}, () => this.#publish(done));
          },
        ),
      );
      metrics.branched(mode, draft.stats);
      log.info({ tag: draft.tag, sandbox: sandbox.id, ...draft.stats }, 'branch is durable');
    } catch (error) {
      const failure = toApiError(error);
      metrics.branchFailed(mode);
      log.warn({ tag: draft.tag, sandbox: sandbox.id, code: failure.code }, failure.message);
      this.#resumed.reject(failure);
    } finally {
      await this.#standStill?.end().catch(() => undefined);
      sandbox.ended.signal.removeEventListener('abort', onEnded);
      this.#resumed.resolve();
    }
  }

  /** Captures the memory and the device state of the source. Resolves when both are on disk. */
  async #capture(vm: Vm, signal: AbortSignal): Promise<VmBranchDone> {
    const { mode, safety, audit, measureDiff } = this.#plan;
    const late = () => new ApiError('branch_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
    const done = await withDeadline(limits.branchTimeoutMs, signal, late, async (inTime) => {
      if (safety === 'strict') this.#standStill = await StandStill.begin(this.#sandbox, inTime);
      const options = { signal: inTime, onEvent: (event: VmBranchEvent) => this.#onEvent(event) };
      return vm.branch({ mode, resume: true, audit, measureDiff }, options);
    });
    await this.#standStill?.end();
    this.#host.registry.holdBuiltOn(this.#sandbox);
    this.#draft.stats = { ...this.#statsOf(done.stats), ...auditOf(done) };
    this.#onResumed(done.stats.pause_us);
    return done;
  }

  #onEvent(event: VmBranchEvent): void {
    const draft = this.#draft;
    if (!draft.inFlight) return;
    const audited = event.stage === 'ready' ? auditOf(event) : {};
    draft.stats = { ...this.#statsOf(event.stats), ...audited };
    this.#onResumed(event.stats.pause_us);
    // The source runs again. A strict branch advances only if the programs stood still until then; `#capture` has the failure.
    const before = this.#standStill?.end() ?? Promise.resolve();
    before.then(() => this.#advance(event)).catch(() => undefined);
  }

  async #advance(event: VmBranchEvent): Promise<void> {
    const draft = this.#draft;
    if (event.stage === 'ready') {
      // A child needs it, and it takes one message to the network process.
      draft.facts.network = (await this.#network) ?? null;
      if (!draft.inFlight) return;
      const { root_disk: rootDisk } = this.#sandbox.record;
      const { stack, disk = [] } = event;
      const ram = { stack, deviceState: blobOf(event.device_state), rootDisk, disk };
      this.#host.catalog.becomeReady(draft, ram);
    }
    this.#resumed.resolve();
  }

  async #publish(done: VmBranchDone): Promise<void> {
    const { catalog, registry, store, log } = this.#host;
    const draft = this.#draft;
    const sandbox = this.#sandbox;
    const { ramStack } = draft;
    const memory = done.stack.map(blobOf);
    const stored = await catalog.publish(draft, {
      facts: { parent: await this.#parent(draft.facts.parent), network: (await this.#network) ?? null },
      memory,
      deviceState: blobOf(done.device_state),
      rootDisk: sandbox.record.root_disk,
      disk: (done.disk ?? []).map(blobOf),
    });
    const top = memory.at(-1);
    const memoryPath = top === undefined ? null : store.blobPath(top.digest);
    try {
      await registry.rebase(ramStack, stored);
      await registry.note(sandbox, { last_branch_memory_path: memoryPath });
    } catch (error) {
      // The snapshot is whole. The note matters only to a controller that is started again.
      log.error({ err: error, tag: draft.tag }, 'could not note a branch in the records of sandboxes');
    }
  }

  /** Runs once, when the source runs again. The branch counts from then on, and the source's clock has stood still. */
  #onResumed(pauseUs: number): void {
    if (this.#sourceRuns) return;
    this.#sourceRuns = true;
    this.#network = markNetwork(this.#host, this.#sandbox);
    this.#count();
    const sandbox = this.#sandbox;
    sandbox.clockBehindMs += pauseUs / 1000;
    if (sandbox.record.paused || sandbox.clockBehindMs <= limits.clockBehindMsMax) return;
    sandbox.clockBehindMs = 0;
    const { log } = this.#host;
    setClock(this.#host, sandbox).catch((error: unknown) => log.error({ err: error }, 'could not set a clock'));
  }

  #count(): void {
    const { registry, log } = this.#host;
    const sandbox = this.#sandbox;
    registry
      .note(sandbox, { branch_count: sandbox.record.branch_count + 1 })
      .catch((error: unknown) => log.error({ err: error, sandbox: sandbox.id }, 'could not count a branch'));
  }

  /** The parent with its digest. A parent that was in RAM when this branch began has a digest once it is durable. */
  async #parent(parent: Origin | null): Promise<Origin | null> {
    if (parent === null || parent.digest !== null) return parent;
    const draft = this.#host.catalog.draft(parent.tag);
    if (draft?.inFlight !== true || draft === this.#draft)
      return { tag: parent.tag, digest: this.#sandbox.record.snapshot_digest };
    const stored = await draft.whenDurable.catch(() => null);
    return { tag: parent.tag, digest: stored?.manifest.digest ?? null };
  }

  #statsOf(stats: VmBranchDone['stats']): Record<string, number> {
    return statsOf(stats, this.#plan.mode, this.#draft.facts.machine?.mem_mib ?? 0);
  }

  async #explain(error: unknown, signal: AbortSignal): Promise<ApiError> {
    const cause = signal.aborted ? signal.reason : await reasonOf(error, this.#sandbox);
    return withContext(`Branch '${this.#draft.tag}' of sandbox ${this.#sandbox.id}`, branchFailure(cause));
  }
}

/** The reason of the VMM's end if that is behind the failure; otherwise the failure itself. */
async function reasonOf(failure: unknown, { ended }: Sandbox): Promise<unknown> {
  if (toApiError(failure).code !== 'engine_failed') return failure;
  await waitForReason(ended.signal);
  return ended.signal.aborted ? ended.signal.reason : failure;
}

/** A failure of the engine fails only this branch. Its source keeps running. */
function branchFailure(error: unknown): ApiError {
  const failure = toApiError(error);
  if (failure.code !== 'engine_failed') return failure;
  return new ApiError('branch_failed', failure.message, { cause: error });
}

function blobOf({ digest, size }: { digest: string; size: number }): Blob {
  return { digest: asDigest(digest), size };
}

/** The numbers as attributes of a span, under names that other programs do not use. */
function asAttributes(stats: Readonly<Record<string, number>>): Attributes {
  return Object.fromEntries(Object.entries(stats).map(([name, value]) => [`forkd.${name}`, value]));
}
