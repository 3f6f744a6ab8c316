import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { EngineError } from '../errors.ts';
import { removeMemoryLimit } from '../memory-limit.ts';
import { readMemoryUse } from '../memory.ts';
import type { Pager } from '../pager/client.ts';
import type { BranchOptions } from '../pager/link.ts';
import type { BranchDone, MemoryUse } from '../pager/wire.ts';
import { killProcess } from '../process.ts';
import type { Capabilities, Capability, PauseFloor, Vm, VmBranch, VmExit, VmRecord } from '../types.ts';
import { FirecrackerApi } from './api.ts';
import { readLentMemoryUse } from './live.ts';
import type { Place } from './place.ts';
import { FILES } from './process.ts';
import { branchOf, takeSnapshot } from './snapshot.ts';

/** The port on which the guest agent listens; its `VSOCK_PORT`. */
const AGENT_PORT = 10_777;

/** What a VM needs of its engine. */
export interface Home {
  pager: Pager;
  place: Place;
  capabilities: Capabilities;
  /** Called once when the VM is killed. */
  onKilled: () => Promise<void>;
}

/** A VM of Firecracker's. */
export class FirecrackerVm implements Vm {
  readonly record: VmRecord;
  readonly agentSocket: string;
  readonly agentPort = AGENT_PORT;
  readonly exited: Promise<VmExit>;
  readonly api: FirecrackerApi;
  /** What its process sees of the host. */
  readonly place: Place;
  readonly #home: Home;
  /** What memory was when Firecracker began to count what is written; `null` where that is not known. */
  #counted: readonly string[] | null;
  #branches = 0;
  #branching = false;
  #killed: Promise<void> | undefined;

  constructor(record: VmRecord, exited: Promise<VmExit>, home: Home, counted: readonly string[] | null) {
    this.record = record;
    // What is sent to the guest while it is branched live waits at the pager's gate.
    this.agentSocket = join(record.dir, home.capabilities.live === true ? FILES.channel : FILES.agent);
    this.exited = exited;
    this.place = home.place;
    this.api = new FirecrackerApi(join(record.dir, FILES.api));
    this.#home = home;
    this.#counted = counted;
  }

  /** What can be asked of this one. */
  get capabilities(): Capabilities {
    return this.#home.capabilities;
  }

  get builtOn(): readonly string[] {
    return this.#counted ?? [];
  }

  async pause(signal?: AbortSignal): Promise<void> {
    this.#assertNoBranch();
    await this.api.pause(signal);
  }

  async resume(signal?: AbortSignal): Promise<void> {
    this.#assertNoBranch();
    await this.api.resume(signal);
  }

  /** Takes a snapshot and makes layers of it. Resolves when they are durable. What is connected to the guest is cut off. */
  async branch(branch: VmBranch, options: BranchOptions = {}): Promise<BranchDone> {
    if (this.#home.capabilities[branch.mode] !== true) throw this.#unsupported(branch.mode, 'A branch');
    this.#assertNoBranch();
    this.#branching = true;
    const name = `snapshot-${(this.#branches += 1)}`;
    try {
      return await (branch.mode === 'live' ? this.#takeLive(branch, options) : this.#take(branch, name, options));
    } finally {
      this.#branching = false;
      await rm(join(this.place.root, name), { recursive: true, force: true });
    }
  }

  async floor(): Promise<PauseFloor> {
    if (this.#home.capabilities.floor !== true) throw this.#unsupported('floor', 'The floor of a pause');
    return this.#home.pager.floor(this.record.id);
  }

  memory(): Promise<MemoryUse> {
    const { pid } = this.record;
    return this.#home.capabilities.live === true ? readLentMemoryUse(pid) : readMemoryUse(pid);
  }

  kill(): Promise<void> {
    this.#killed ??= this.#end();
    return this.#killed;
  }

  async #take({ mode, resume }: VmBranch, name: string, options: BranchOptions): Promise<BranchDone> {
    const { machine, stack } = this.record;
    const { pager } = this.#home;
    const { place } = this;
    // Firecracker forgets what was written as soon as it has written it down: until that is a layer, nothing is known.
    const counted = this.#counted;
    this.#counted = null;
    const diff = mode === 'diff' && counted !== null;
    const below = mode === 'full' ? [] : (counted ?? stack);
    const stats = await takeSnapshot(this.api, { diff, name, place, resume }, options);
    const captured = { dir: join(place.root, name), diff, below, memBytes: machine.mem_mib * 2 ** 20 };
    const done = await branchOf(captured, stats, pager, options);
    this.#counted = done.stack.map(({ digest }) => digest);
    return done;
  }

  async #takeLive({ resume, audit = false }: VmBranch, options: BranchOptions): Promise<BranchDone> {
    // Whether a build forgets what was written when it saves its device state is not known.
    this.#counted = null;
    return this.#home.pager.branch({ sandbox: this.record.id, mode: 'live', resume, audit }, options);
  }

  #unsupported(capability: Capability, what: string): EngineError {
    const why = this.#home.capabilities[capability];
    return new EngineError('unsupported', `${what} of ${this.record.id} cannot be had. ${why}`);
  }

  #assertNoBranch(): void {
    if (!this.#branching) return;
    throw new EngineError('busy', `A branch of ${this.record.id} is under way.`);
  }

  async #end(): Promise<void> {
    await killProcess(this.record);
    await this.exited;
    await this.api.close();
    await removeMemoryLimit(this.record.dir);
    await this.place.remove();
    // A pager that has gone holds nothing any more, and has left its socket.
    if (this.#home.capabilities.live === true) await this.#home.pager.release(this.record.id).catch(() => undefined);
    for (const name of [FILES.pages, FILES.channel]) await rm(join(this.record.dir, name), { force: true });
    await this.#home.onKilled();
  }
}
