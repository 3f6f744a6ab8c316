import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { memBytesOf } from '@forkd/api/constants';
import { EngineError } from '../errors.ts';
import { removeMemoryLimit } from '../memory-limit.ts';
import type { Pager } from '../pager/client.ts';
import type { BranchOptions } from '../pager/link.ts';
import type { BranchDone, MemoryUse } from '../pager/wire.ts';
import { endProcess } from '../supervise.ts';
import type { Capabilities, Capability, PauseFloor, Vm, VmBranch, VmExit, VmRecord } from '../types.ts';
import { FirecrackerApi } from './api.ts';
import { readLentMemoryUse, withoutLive } from './live.ts';
import type { PageWatch } from './pages.ts';
import { FILES } from './process.ts';
import { branchOf, takeSnapshot } from './snapshot.ts';
import type { VmRoot } from './vm-root.ts';

/** The port on which the guest agent listens; its `VSOCK_PORT`. */
const AGENT_PORT = 10_777;

/** The parts of its engine that a VM needs. */
export interface VmParts {
  pager: Pager;
  vmRoot: VmRoot;
  pages: PageWatch;
  /** Capabilities as far as they are known before the VM has memory. */
  capabilities: Capabilities;
  /** Called once when the VM is killed. */
  onKilled: () => Promise<void>;
}

/** A VM of Firecracker's. */
export class FirecrackerVm implements Vm {
  readonly record: VmRecord;
  readonly agentPort = AGENT_PORT;
  readonly exited: Promise<VmExit>;
  readonly api: FirecrackerApi;
  /** The file system of its process. */
  readonly vmRoot: VmRoot;
  readonly stall = null;
  onStall = null;
  readonly #parts: VmParts;
  #capabilities: Capabilities;
  /** The stack that memory held when Firecracker began to track writes. `null` if that is unknown. */
  #counted: readonly string[] | null;
  #branches = 0;
  #branching = false;
  #killed: Promise<void> | undefined;

  constructor(record: VmRecord, exited: Promise<VmExit>, parts: VmParts, counted: readonly string[] | null) {
    this.record = record;
    this.exited = exited;
    this.vmRoot = parts.vmRoot;
    this.api = new FirecrackerApi(join(record.dir, FILES.api));
    this.#parts = parts;
    this.#counted = counted;
    this.#capabilities = parts.capabilities;
    // Whatever is asked of a process that has ended has no answer.
    const close = () => this.api.close();
    exited.then(close, close);
  }

  /** The capabilities of this VM. */
  get capabilities(): Capabilities {
    return this.#capabilities;
  }

  /** During a live branch, bytes for the guest wait at the pager's gate. */
  get agentSocket(): string {
    return join(this.record.dir, this.#capabilities.live === true ? FILES.channel : FILES.agent);
  }

  /** The VM turns out to be one that cannot be branched live, for a reason given as a sentence. */
  refuseLive(why: string): void {
    this.#capabilities = { ...this.#capabilities, ...withoutLive(why) };
  }

  /** Starts when the pager listens for the VM. Ends the VM if the pager ends while the VM needs it. */
  watchPages(): void {
    // If the kernel refuses to end the VM, requests to it fail, and say so.
    this.#parts.pages.keep().catch(() => undefined);
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
    if (this.#capabilities[branch.mode] !== true) throw this.#unsupported(branch.mode, 'A branch');
    if (branch.measureDiff === true && this.#capabilities.diff !== true)
      throw this.#unsupported('diff', 'A measurement');
    if (branch.audit === true && branch.mode !== 'live') throw this.#noAudit(branch.mode);
    this.#assertNoBranch();
    this.#branching = true;
    const name = `snapshot-${(this.#branches += 1)}`;
    try {
      return await (branch.mode === 'live' ? this.#takeLive(branch, options) : this.#take(branch, name, options));
    } finally {
      this.#branching = false;
      await rm(join(this.vmRoot.root, name), { recursive: true, force: true });
    }
  }

  async floor(): Promise<PauseFloor> {
    if (this.#capabilities.floor !== true) throw this.#unsupported('floor', 'The floor of a pause');
    return this.#parts.pager.floor(this.record.id);
  }

  memory(): Promise<MemoryUse> {
    return readLentMemoryUse(this.record.pid);
  }

  async reopenDisk(): Promise<void> {}

  async diskUse(): Promise<null> {
    return null;
  }

  kill(): Promise<void> {
    this.#killed ??= this.#end();
    return this.#killed;
  }

  async #take(
    { mode, resume, measureDiff = false }: VmBranch,
    name: string,
    options: BranchOptions,
  ): Promise<BranchDone> {
    const { machine, stack } = this.record;
    const { pager } = this.#parts;
    const { vmRoot } = this;
    // Firecracker forgets what was written as soon as it has written it down: until that is a layer, nothing is known.
    const counted = this.#counted;
    this.#counted = null;
    const diff = mode === 'diff' && counted !== null;
    const below = mode === 'full' ? [] : (counted ?? stack);
    const stats = await takeSnapshot(this.api, { diff, measureDiff, name, vmRoot, resume }, options);
    const captured = { dir: join(vmRoot.root, name), diff, below, memBytes: memBytesOf(machine) };
    const done = await branchOf(captured, stats, pager, options);
    this.#counted = done.stack.map(({ digest }) => digest);
    return done;
  }

  async #takeLive({ resume, audit = false }: VmBranch, options: BranchOptions): Promise<BranchDone> {
    // Whether a build forgets what was written when it saves its device state is not known.
    this.#counted = null;
    return this.#parts.pager.branch({ sandbox: this.record.id, mode: 'live', resume, audit }, options);
  }

  #unsupported(capability: Capability, what: string): EngineError {
    const why = this.#capabilities[capability];
    return new EngineError('unsupported', `${what} of ${this.record.id} cannot be had. ${why}`);
  }

  #noAudit(mode: string): EngineError {
    const sentence = `An audit of a ${mode} branch of ${this.record.id} is unavailable.`;
    return new EngineError(
      'unsupported',
      `${sentence} Firecracker itself writes such a branch. Mode live can be audited.`,
    );
  }

  #assertNoBranch(): void {
    if (!this.#branching) return;
    throw new EngineError('busy', `A branch of ${this.record.id} is under way.`);
  }

  async #end(): Promise<void> {
    const stuck = await endProcess(this.record, this.exited).catch((error: unknown) => error);
    await this.api.close();
    // A pager that has gone holds nothing any more.
    if (this.#parts.capabilities.live === true) await this.#parts.pager.release(this.record.id).catch(() => undefined);
    // Files that the process may still use stay until it has ended, if it ever does.
    const rest = this.exited.then(() => this.#giveBack());
    if (stuck === undefined) return rest;
    rest.catch(() => undefined);
    throw stuck;
  }

  async #giveBack(): Promise<void> {
    await removeMemoryLimit(this.record.dir);
    await this.vmRoot.remove();
    // A pager that has gone has left its sockets.
    for (const name of [FILES.pages, FILES.channel]) await rm(join(this.record.dir, name), { force: true });
    await this.#parts.onKilled();
  }
}
