import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { BranchDone, BranchOptions, BranchStats, Capability, Machine, Vm, VmBranch, VmExit } from '@forkd/engine';
import { EngineError } from '@forkd/engine';
import { Store } from '@forkd/store';
import type { Blob } from '@forkd/store';
import { pino } from 'pino';
import { onTestFinished } from 'vitest';

import { deferred } from '../src/deferred.ts';
import { EventLog } from '../src/events.ts';
import type { Runtime } from '../src/runtime/vmm.ts';
import { BranchService } from '../src/sandboxes/branch.ts';
import type { SandboxRecord } from '../src/sandboxes/record.ts';
import { settingsDefault } from '../src/sandboxes/record.ts';
import { Registry } from '../src/sandboxes/registry.ts';
import { Catalog } from '../src/snapshots/catalog.ts';
import { Housekeeping } from '../src/snapshots/housekeeping.ts';
import { Pins } from '../src/snapshots/pins.ts';
import { Removal } from '../src/snapshots/removal.ts';

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

  resumed(): void {
    this.#options.onEvent?.({ stage: 'resumed', stats: statsOf() });
  }

  async ready(): Promise<void> {
    const device_state = await this.#put(`device state ${this.#n}`);
    const stats = statsOf({ ready_us: 3000, captured_pages: 2, captured_bytes: 8192 });
    this.#options.onEvent?.({ stage: 'ready', stack: ['ram:0', `ram:${this.#n}`], device_state, stats });
  }

  async durable(): Promise<void> {
    const stack = [await this.#put('base'), await this.#put(`layer ${this.#n}`)];
    const device_state = await this.#put(`device state ${this.#n}`);
    const stats = statsOf({ ready_us: 3000, durable_us: 4000, captured_pages: 2, captured_bytes: 8192 });
    this.result.resolve({ stack, device_state, stats, audit: null });
  }

  fail(error: Error): void {
    this.result.reject(error);
  }

  #put(text: string): Promise<Blob> {
    return this.#store.putBytes(Buffer.from(text));
  }
}

/** The services over a real store, with VMs that do what the test says. */
export class Lab {
  readonly store: Store;
  readonly catalog: Catalog;
  readonly registry: Registry;
  readonly branches: BranchService;
  readonly removal: Removal;
  readonly housekeeping: Housekeeping;
  readonly pins = new Pins();
  readonly events = new EventLog();
  readonly fakes = new Map<string, FakeBranch>();
  /** What its VMs can do. */
  readonly capabilities: Record<Capability, true | string> = {
    full: true,
    diff: true,
    live: true,
    pause: true,
    memory_limit: true,
    pool: true,
    floor: true,
  };
  #count = 0;

  private constructor(dir: string, store: Store, cap: number) {
    this.store = store;
    const pager = { inventory: async () => ({ layers: [], sandboxes: [] }) };
    const runtime = { pager } as unknown as Runtime;
    const vmm = { use: async () => runtime, pagerIfUp: () => runtime.pager };
    this.housekeeping = new Housekeeping(store, this.pins, vmm, silent);
    const { pins, housekeeping, events } = this;
    this.registry = new Registry({ root: join(dir, 'sandboxes'), pins, housekeeping, events, log: silent });
    this.catalog = new Catalog(store, events);
    const { catalog, registry } = this;
    this.removal = new Removal({ catalog, store, housekeeping, events, reservedBy: () => null });
    this.branches = new BranchService({ catalog, registry, store, housekeeping, vmm, log: silent, cap });
  }

  static async open(dir: string, cap = 4): Promise<Lab> {
    return new Lab(dir, await Store.open(join(dir, 'store')), cap);
  }

  /** A sandbox that "runs": its VMM is a promise that the test settles. */
  async addSandbox(id: string, parentTag = 'base', parentDigest: SandboxRecord['snapshot_digest'] = null) {
    const root_disk = await this.store.putBytes(Buffer.from('root'));
    const record: SandboxRecord = {
      ...settingsDefault,
      labels: {},
      warnings: [],
      format: 2,
      id,
      kind: 'sandbox',
      state: 'starting',
      snapshot_tag: parentTag,
      snapshot_digest: parentDigest,
      root_disk,
      image,
      source: 'recipe',
      python: false,
      created_at_unix: 1,
      branch_count: 0,
      last_branch_memory_path: null,
      fork_ms: null,
      ready_ms: null,
      vm: null,
    };
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
      kill: async () => exit.resolve({ code: null, signal: 'SIGKILL', why: null, log: '' }),
    };
    this.registry.attach(sandbox, vm);
    await this.registry.run(sandbox, { fork_ms: 1, ready_ms: 2 });
    return { sandbox, exit };
  }

  async close(): Promise<void> {
    await this.branches.close(AbortSignal.abort());
    await this.housekeeping.close();
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
