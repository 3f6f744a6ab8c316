import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BranchRequest, DeleteSnapshotQuery, SnapshotInfo } from '@forkd/api';
import {
  EngineError,
  type BranchDone,
  type BranchOptions,
  type BranchStats,
  type Capability,
  type Machine,
  type Vm,
  type VmBranch,
  type VmExit,
} from '@forkd/engine';
import { Store, type Blob } from '@forkd/store';
import { pino } from 'pino';
import { onTestFinished, vi } from 'vitest';
import { locateBinaries } from '../src/binaries.ts';
import { deferred } from '../src/deferred.ts';
import { limits } from '../src/limits.ts';
import { Metrics } from '../src/observe/metrics.ts';
import { branch } from '../src/operations/branch.ts';
import type { Host } from '../src/operations/host.ts';
import { removeSnapshot } from '../src/operations/remove.ts';
import { dataPaths } from '../src/paths.ts';
import { GuestBoot } from '../src/runtime/guest-boot.ts';
import type { Runtime } from '../src/runtime/vmm.ts';
import { BranchSlots } from '../src/state/branch-slots.ts';
import { BytePool } from '../src/state/byte-pool.ts';
import { Catalog } from '../src/state/catalog.ts';
import { EndedSandboxes } from '../src/state/ended.ts';
import { EventLog } from '../src/state/events.ts';
import { FlowLog } from '../src/state/flow-log.ts';
import { Housekeeping } from '../src/state/housekeeping.ts';
import { Pins } from '../src/state/pins.ts';
import { Registry } from '../src/state/registry.ts';
import { Replies } from '../src/state/replies.ts';
import { newRecord, type SandboxRecord } from '../src/state/sandbox-record.ts';
import { Workspaces } from '../src/state/workspaces.ts';

export const silent = pino({ level: 'silent' });

/** A directory that is gone when the test is over. */
export async function scratch(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'forkd-controller-test-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

export const machine: Machine = {
  engine: 'qemu',
  engine_version: '7.2.22',
  machine: 'microvm',
  accelerator: 'tcg',
  cpu_model: 'max',
  mem_mib: 256,
  vcpus: 1,
};

export const image = { env: {}, workdir: '/', user: 'root', entrypoint: [], cmd: [] };

export function statsOf(more: Partial<BranchStats> = {}): BranchStats {
  return {
    window: 'monitor',
    pause_us: 2000,
    device_state_us: 1000,
    arm_us: 10,
    scan_us: 10,
    settle_us: 0,
    settle_rounds: 0,
    touched_pages: 1,
    private_pages: 2,
    captured_pages: 0,
    captured_bytes: 0,
    diff_us: 0,
    diff_pages: 0,
    capture_us: 0,
    pages_by_copy: 0,
    pages_by_fault: 0,
    faults: 0,
    fault_wait_ns_p50: 0,
    fault_wait_ns_p99: 0,
    fault_wait_ns_max: 0,
    ready_us: 0,
    durable_us: 0,
    ...more,
  };
}

/** A branch that a test moves on by hand. */
export class FakeBranch {
  readonly request: VmBranch;
  readonly #options: BranchOptions;
  readonly #store: Store;
  readonly #n: number;
  readonly result = deferred<BranchDone>();

  constructor(request: VmBranch, options: BranchOptions, store: Store, n: number) {
    this.request = request;
    this.#options = options;
    this.#store = store;
    this.#n = n;
    options.signal?.addEventListener('abort', () => this.fail(new EngineError('cancelled', 'It was cancelled.')));
  }

  resumed(more: Partial<BranchStats> = {}): void {
    this.#options.onEvent?.({ stage: 'resumed', stats: statsOf(more), disk_epoch: null });
  }

  async ready(): Promise<void> {
    const device_state = await this.#put(`device state ${this.#n}`);
    const stats = statsOf({ ready_us: 3000, captured_pages: 2, captured_bytes: 8192 });
    this.#options.onEvent?.({
      stage: 'ready',
      stack: ['ram:0', `ram:${this.#n}`],
      device_state,
      stats,
      audit: this.#audit(),
    });
  }

  async durable(): Promise<void> {
    const stack = [await this.#put('base'), await this.#put(`layer ${this.#n}`)];
    const device_state = await this.#put(`device state ${this.#n}`);
    const stats = statsOf({ ready_us: 3000, durable_us: 4000, captured_pages: 2, captured_bytes: 8192 });
    this.result.resolve({ stack, device_state, stats, audit: this.#audit() });
  }

  fail(error: Error): void {
    this.result.reject(error);
  }

  #audit() {
    return this.request.audit === true ? { checked_pages: 512, differing_pages: 0, changed_since: 1 } : null;
  }

  #put(text: string): Promise<Blob> {
    return this.#store.putBytes(Buffer.from(text));
  }
}

/** A host with a real store, and with VMs that do what the test says. */
export class Lab {
  readonly host: Host;
  readonly store: Store;
  readonly catalog: Catalog;
  readonly registry: Registry;
  readonly pins: Pins;
  readonly events: EventLog;
  readonly fakes = new Map<string, FakeBranch>();
  /** What its VMs can do. */
  readonly capabilities: Record<Capability, true | string> = {
    full: true,
    diff: true,
    live: true,
    pause: true,
    memory_limit: true,
    network: true,
    pool: true,
    floor: true,
    window_inside: true,
    disk: true,
  };
  #count = 0;

  private constructor(host: Host) {
    this.host = host;
    this.store = host.store;
    this.catalog = host.catalog;
    this.registry = host.registry;
    this.pins = host.pins;
    this.events = host.events;
  }

  /** The branch of a sandbox, once the operation has asked its VM for it. */
  fakeOf(id: string): Promise<FakeBranch> {
    return vi.waitFor(() => {
      const fake = this.fakes.get(id);
      if (fake === undefined) throw new Error(`no branch of ${id} has been asked for`);
      return fake;
    });
  }

  static async open(dir: string, cap = 4): Promise<Lab> {
    const log = silent;
    const paths = dataPaths(dir);
    const store = await Store.open(paths.store);
    const pager = { inventory: async () => ({ layers: [], sandboxes: [] }), letGo: async () => undefined };
    const runtime = { pager } as unknown as Runtime;
    const vmm = { use: async () => runtime, pagerIfUp: () => runtime.pager, engineOnceUp: async () => null };
    const pins = new Pins();
    const events = new EventLog();
    const disks = { ifUp: () => null };
    const pagers = { othersLive: async () => false };
    const housekeeping = new Housekeeping({ store, pins, vmm, disks, pagers, log });
    const metrics = new Metrics();
    const ended = await EndedSandboxes.open(paths.ended, log);
    const registry = new Registry({ root: paths.sandboxes, ended, pins, housekeeping, events, metrics, log });
    return new Lab({
      disks: { ...disks, find: unasked },
      catalog: new Catalog({ store, events, housekeeping }),
      registry,
      workspaces: new Workspaces({ dir: paths.workspaces, registry, log }),
      branches: new BranchSlots(cap),
      store,
      pins,
      housekeeping,
      vmm,
      network: null,
      flows: new FlowLog(),
      boot: new GuestBoot(paths.cache, locateBinaries(), { vsock: false }),
      replies: await Replies.open(paths.replies),
      events,
      output: new BytePool(limits.output),
      metrics,
      paths,
      log,
      end: () => undefined,
    });
  }

  branch(id: string, request: BranchRequest): Promise<SnapshotInfo> {
    return branch(this.host, id, request);
  }

  remove(tag: string, query: DeleteSnapshotQuery): Promise<void> {
    return removeSnapshot(this.host, tag, query);
  }

  /** A sandbox that "runs": its VMM is a promise that the test settles. */
  async addSandbox(id: string, parentTag = 'base', parentDigest: SandboxRecord['snapshot_digest'] = null) {
    const root_disk = await this.store.putBytes(Buffer.from('root'));
    const record = newRecord({
      id,
      kind: 'sandbox',
      snapshot_tag: parentTag,
      snapshot_digest: parentDigest,
      root_disk,
      image,
      source: 'recipe',
      python: false,
      refresh: null,
      created_at_unix: 1,
    });
    const sandbox = await this.registry.reserve(record, [root_disk.digest]);
    const exit = deferred<VmExit>();
    const vm: Vm = {
      record: { id, dir: sandbox.dir, pid: 1, startTicks: 1, machine, stack: ['sha256:base'] },
      agentSocket: join(sandbox.dir, 'agent.sock'),
      agentPort: null,
      capabilities: this.capabilities,
      exited: exit.promise,
      builtOn: [],
      pause: unasked,
      resume: unasked,
      branch: (request, options = {}) => {
        this.#count += 1;
        const fake = new FakeBranch(request, options, this.store, this.#count);
        this.fakes.set(id, fake);
        return fake.result.promise;
      },
      floor: unasked,
      memory: unasked,
      stall: null,
      onStall: null,
      reopenDisk: async () => undefined,
      diskUse: async () => null,
      kill: async () => exit.resolve({ code: null, signal: 'SIGKILL', why: null, log: '' }),
    };
    this.registry.attach(sandbox, vm);
    await this.registry.run(sandbox, { fork_ms: 1, ready_ms: 2 });
    return { sandbox, exit };
  }

  async close(): Promise<void> {
    await this.host.branches.close(AbortSignal.abort());
    await this.host.housekeeping.close();
  }
}

/** No test here asks it. */
const unasked = () => Promise.reject(new Error('a VM of this lab only branches'));

/** The code of what `promise` is rejected with; `ok` when it is not. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'ok';
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : String(error);
  }
}
