import { randomBytes } from 'node:crypto';

import type { CreateSandboxesRequest } from '@forkd/api';
import { ApiError, limits as apiLimits, newSandboxId } from '@forkd/api';
import type { Machine } from '@forkd/engine';
import type { Store } from '@forkd/store';
import type { Logger } from 'pino';

import { anySignal } from '../deadline.ts';
import { during } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Runtime, Vmm } from '../runtime/vmm.ts';
import { machineFor } from '../runtime/vmm.ts';
import type { Catalog, ForkSource } from '../snapshots/catalog.ts';
import type { Pins } from '../snapshots/pins.ts';
import { admit } from './admission.ts';
import type { SandboxRecord } from './record.ts';
import type { Registry } from './registry.ts';
import type { Sandbox } from './sandbox.ts';
import { startAll } from './starts.ts';

/** Starts sandboxes from snapshots. */
export class ForkService {
  readonly #catalog: Catalog;
  readonly #registry: Registry;
  readonly #store: Store;
  readonly #pins: Pins;
  readonly #vmm: Pick<Vmm, 'use'>;
  readonly #log: Logger;

  constructor(parts: {
    catalog: Catalog;
    registry: Registry;
    store: Store;
    pins: Pins;
    vmm: Pick<Vmm, 'use'>;
    log: Logger;
  }) {
    this.#catalog = parts.catalog;
    this.#registry = parts.registry;
    this.#store = parts.store;
    this.#pins = parts.pins;
    this.#vmm = parts.vmm;
    this.#log = parts.log;
  }

  /** All of them, or none: when one cannot be started, those that were are ended, and the error says which and why. */
  async fork(request: CreateSandboxesRequest, signal: AbortSignal): Promise<Sandbox[]> {
    refuseUnsupported(request);
    const { snapshot_tag: tag, n = apiLimits.forkCountDefault } = request;
    const source = await this.#catalog.forkSource(tag);
    const unpin = this.#pins.hold(needsOf(source));
    try {
      const runtime = await this.#vmm.use(signal);
      const machine = machineFor(runtime.engine, tag, source.machine);
      await this.#checkBlobs(source, signal);
      await admit(`A fork of ${n} from '${tag}'`, n, limits.vmOverheadBytes);
      return await this.#startChildren({ runtime, source, machine }, n, signal);
    } finally {
      unpin();
    }
  }

  async #startChildren(plan: ChildPlan, n: number, signal: AbortSignal): Promise<Sandbox[]> {
    const { tag, draft } = plan.source;
    const failed = new AbortController();
    const children = new Set<Sandbox>();
    const stopping = anySignal(signal, failed.signal);
    const ids = Array.from({ length: n }, newSandboxId);
    try {
      const started = await startAll(
        ids,
        limits.forkParallelism,
        (id) => this.#startChild(plan, id, children, stopping),
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
    const { runtime, source, machine } = plan;
    const sandbox = await this.#registry.reserve(recordOf(id, source), needsOf(source));
    children.add(sandbox);
    signal.throwIfAborted();
    const beganMs = performance.now();
    const vm = await runtime.engine.restore({
      id,
      dir: sandbox.vmDir,
      rootImage: this.#store.blobPath(source.rootDisk.digest),
      pager: runtime.pager,
      machine,
      stack: source.stack,
      deviceState: this.#store.blobPath(source.deviceState.digest),
      signal,
      timeoutMs: limits.restoreTimeoutMs,
    });
    this.#registry.attach(sandbox, vm);
    const forkMs = performance.now() - beganMs;
    await identify(sandbox, anySignal(signal, sandbox.ended.signal));
    const readyMs = performance.now() - beganMs;
    await this.#registry.run(sandbox, { fork_ms: round(forkMs), ready_ms: round(readyMs) });
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
}

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

function recordOf(id: string, source: ForkSource): SandboxRecord {
  return {
    format: 1,
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
  };
}

/** What the wire knows and this version cannot do is refused: a limit that is not enforced would be worse. */
function refuseUnsupported(request: CreateSandboxesRequest): void {
  const { snapshot_tag: tag } = request;
  const refuse = (field: string, why: string) =>
    new ApiError('unsupported', `Fork of '${tag}': ${field} is not there yet: ${why}.`, { hint: 'Leave it out.' });
  if (request.per_child_netns === true) throw refuse('per_child_netns', 'guests have no network');
  if (request.memory_limit_mib != null) throw refuse('memory_limit_mib', 'sandboxes are not put into cgroups');
  if (request.hugepages === true) throw refuse('hugepages', 'layers are mapped in pages of 4 KiB');
}

function round(ms: number): number {
  return Math.round(ms * 100) / 100;
}
