import { randomBytes } from 'node:crypto';

import type { CreateSandboxesRequest } from '@forkd/api';
import { ApiError, limits as apiLimits, newSandboxId } from '@forkd/api';
import type { Machine, RestoreSpec } from '@forkd/engine';
import type { Store } from '@forkd/store';
import type { Logger } from 'pino';

import { anySignal } from '../deadline.ts';
import { during } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Metrics } from '../observe/metrics.ts';
import { traced } from '../observe/tracing.ts';
import { assertCan } from '../runtime/abilities.ts';
import { machineFor } from '../runtime/engines.ts';
import type { Runtime, Vmm } from '../runtime/vmm.ts';
import type { Catalog, ForkSource } from '../snapshots/catalog.ts';
import type { Pins } from '../snapshots/pins.ts';
import { admit } from './admission.ts';
import { assertName, expiryOf } from './lifecycle.ts';
import type { SandboxRecord } from './record.ts';
import type { Registry } from './registry.ts';
import type { Sandbox } from './sandbox.ts';
import { startAll, startEach } from './starts.ts';

/** Starts sandboxes from snapshots. */
export class ForkService {
  readonly #catalog: Catalog;
  readonly #registry: Registry;
  readonly #store: Store;
  readonly #pins: Pins;
  readonly #vmm: Pick<Vmm, 'use'>;
  readonly #log: Logger;
  readonly #metrics: Metrics | undefined;

  constructor(parts: {
    catalog: Catalog;
    registry: Registry;
    store: Store;
    pins: Pins;
    vmm: Pick<Vmm, 'use'>;
    log: Logger;
    metrics?: Metrics;
  }) {
    this.#catalog = parts.catalog;
    this.#registry = parts.registry;
    this.#store = parts.store;
    this.#pins = parts.pins;
    this.#vmm = parts.vmm;
    this.#log = parts.log;
    this.#metrics = parts.metrics;
  }

  /**
   * All of them, or none: when one cannot be started, those that were are ended, and the error says which and why. With
   * `partial` those that started are kept, and each of the others has its error.
   */
  async fork(
    request: CreateSandboxesRequest,
    signal: AbortSignal,
    owner: Partial<ForkOwner> = {},
  ): Promise<Sandbox[] | PartialFork> {
    const settings = settingsOf(request, owner);
    this.#registry.assertNameFree(settings.name);
    const { snapshot_tag: tag, n = apiLimits.forkCountDefault } = request;
    const source = await this.#catalog.forkSource(tag);
    const unpin = this.#pins.hold(needsOf(source));
    try {
      const runtime = await this.#vmm.use(signal);
      const machine = machineFor(runtime.engine, tag, source.machine);
      const memoryLimitMib = request.memory_limit_mib ?? undefined;
      // A limit that nobody enforces would be worse than none.
      const limit = `Fork of '${tag}': memory_limit_mib cannot be enforced`;
      if (memoryLimitMib !== undefined) assertCan(runtime.engine, 'memory_limit', limit, 'Leave it out.');
      await this.#checkBlobs(source, signal);
      await admit(`A fork of ${n} from '${tag}'`, n, limits.vmOverheadBytes);
      const plan: ChildPlan = { runtime, source, machine, memoryLimitMib, settings };
      const started = await (request.partial === true
        ? this.#startSome(plan, n, signal)
        : this.#startAll(plan, n, signal));
      this.#metrics?.forked();
      return started;
    } catch (error) {
      this.#metrics?.forkFailed();
      throw error;
    } finally {
      unpin();
    }
  }

  async #startSome(plan: ChildPlan, n: number, signal: AbortSignal): Promise<Sandbox[] | PartialFork> {
    const ids = Array.from({ length: n }, newSandboxId);
    const results = await startEach(ids, limits.forkParallelism, async (id) => {
      const [child] = await this.#start(plan, [id], signal);
      return child as Sandbox;
    });
    const children = results.flatMap((result) => (result instanceof ApiError ? [] : [result]));
    return children.length === n ? children : { results };
  }

  #startAll(plan: ChildPlan, n: number, signal: AbortSignal): Promise<Sandbox[]> {
    return this.#start(plan, Array.from({ length: n }, newSandboxId), signal);
  }

  async #start(plan: ChildPlan, ids: readonly string[], signal: AbortSignal): Promise<Sandbox[]> {
    const { tag, draft } = plan.source;
    const n = ids.length;
    const failed = new AbortController();
    const children = new Set<Sandbox>();
    const stopping = anySignal(signal, failed.signal);
    try {
      const started = await startAll(
        ids,
        limits.forkParallelism,
        (id) => {
          const about = { 'forkd.snapshot': tag, 'forkd.sandbox': id };
          return traced('fork', about, () => this.#startChild(plan, id, children, stopping));
        },
        (error) => failed.abort(error),
      );
      // It may have become durable while they were being started.
      if (draft?.stored) await this.#registry.rebase(draft.ramStack, draft.stored);
      return started;
    } catch (error) {
      const which = n === 1 ? `Fork of '${tag}'` : `Fork of '${tag}': one of ${n} children failed, none was kept`;
      await Promise.all([...children].map((child) => this.#registry.end(child)));
      throw during(which, error);
    }
  }

  async #startChild(plan: ChildPlan, id: string, children: Set<Sandbox>, signal: AbortSignal): Promise<Sandbox> {
    const { runtime, source, machine, memoryLimitMib } = plan;
    const sandbox = await this.#registry.reserve(recordOf(id, plan), needsOf(source));
    children.add(sandbox);
    signal.throwIfAborted();
    const beganMs = performance.now();
    const spec: RestoreSpec = {
      id,
      dir: sandbox.vmDir,
      rootImage: this.#store.blobPath(source.rootDisk.digest),
      pager: runtime.pager,
      machine,
      stack: source.stack,
      deviceState: this.#store.blobPath(source.deviceState.digest),
      signal,
      timeoutMs: limits.restoreTimeoutMs,
      ...(memoryLimitMib !== undefined && { memoryLimitMib }),
    };
    const vm = await traced('restore', {}, () => runtime.engine.restore(spec));
    this.#registry.attach(sandbox, vm);
    const forkMs = performance.now() - beganMs;
    await traced('identify', {}, () => identify(sandbox, anySignal(signal, sandbox.ended.signal)));
    const readyMs = performance.now() - beganMs;
    await this.#registry.run(sandbox, { fork_ms: round(forkMs), ready_ms: round(readyMs) });
    this.#metrics?.child({ forkMs, readyMs });
    this.#log.info({ sandbox: id, tag: source.tag, fork_ms: round(forkMs), ready_ms: round(readyMs) }, 'forked');
    return sandbox;
  }

  /** Cheap, and before any VMM is started: the layers themselves are verified by the pager as it loads them. */
  async #checkBlobs(source: ForkSource, signal: AbortSignal): Promise<void> {
    try {
      await this.#store.check(source.deviceState);
      await this.#store.check(source.rootDisk);
      await this.#store.verifyOnce(source.deviceState.digest, signal);
      await this.#store.verifyOnce(source.rootDisk.digest, signal);
    } catch (error) {
      throw during(`Snapshot '${source.tag}'`, error);
    }
  }
}

interface ChildPlan {
  runtime: Runtime;
  source: ForkSource;
  machine: Machine;
  memoryLimitMib: number | undefined;
  settings: Settings;
}

/** What a fork has done where some of it failed. */
export interface PartialFork {
  results: (Sandbox | ApiError)[];
}

/** For whom sandboxes are started. */
interface ForkOwner {
  /** The workspace that they are the live sandbox of. */
  workspace: string | null;
  /** The request, where it has a key under which its reply will be kept. */
  requestKey: string | null;
}

type Settings = Pick<
  SandboxRecord,
  'name' | 'labels' | 'expires_at_unix' | 'on_expire' | 'workspace' | 'request_key' | 'warnings'
>;

/** Before any command of a user: entropy, clock and names of its own. The same again is no second identity. */
async function identify(sandbox: Sandbox, signal: AbortSignal): Promise<void> {
  const names = { hostname: sandbox.id, machineId: randomBytes(16).toString('hex'), entropy: randomBytes(64) };
  const timeoutMs = limits.identifyTimeoutMs;
  await sandbox.guest.call(
    async (agent) => {
      const wallClockUnixNs = BigInt(Date.now()) * 1_000_000n;
      await agent.identify({ ...names, wallClockUnixNs }, { timeoutMs, signal });
    },
    { signal, repeatable: true },
  );
}

function needsOf(source: ForkSource): string[] {
  return [...source.stack, source.deviceState.digest, source.rootDisk.digest];
}

function recordOf(id: string, { source, memoryLimitMib, settings }: ChildPlan): SandboxRecord {
  return {
    format: 2,
    id,
    kind: 'sandbox',
    state: 'starting',
    snapshot_tag: source.tag,
    snapshot_digest: source.digest,
    root_disk: source.rootDisk,
    image: source.image,
    source: source.source,
    python: source.python,
    created_at_unix: Math.floor(Date.now() / 1000),
    branch_count: 0,
    last_branch_memory_path: null,
    fork_ms: null,
    ready_ms: null,
    vm: null,
    ...(memoryLimitMib !== undefined && { memory_limit_mib: memoryLimitMib }),
    paused: false,
    ...settings,
  };
}

function settingsOf(request: CreateSandboxesRequest, owner: Partial<ForkOwner>): Settings {
  const { name = null, labels, ttl_secs: ttlSecs, on_expire: onExpire, n = 1, hugepages = false } = request;
  if (name !== null) {
    assertName(name);
    if (n > 1) throw new ApiError('bad_request', `Fork of ${n}: only one sandbox can have the name '${name}'.`);
  }
  return {
    name,
    labels: labels ?? {},
    expires_at_unix: expiryOf(ttlSecs ?? null),
    on_expire: onExpire ?? 'kill',
    workspace: owner.workspace ?? null,
    request_key: owner.requestKey ?? null,
    warnings: hugepages ? ['hugepages: layers are mapped in pages of 4 KiB'] : [],
  };
}

function round(ms: number): number {
  return Math.round(ms * 100) / 100;
}
