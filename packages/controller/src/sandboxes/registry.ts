import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';

import { ApiError } from '@forkd/api';
import type { Vm } from '@forkd/engine';
import type { StoredSnapshot } from '@forkd/store';
import { Mutex, removeTree } from '@forkd/store';
import type { Logger } from 'pino';

import type { EventLog, Subject } from '../events.ts';
import type { Housekeeping } from '../snapshots/housekeeping.ts';
import type { Pins } from '../snapshots/pins.ts';
import { GuestLink } from './guest-link.ts';
import type { SandboxRecord } from './record.ts';
import { writeRecord } from './record.ts';
import { Sandbox } from './sandbox.ts';

/** What of a record may change while the sandbox is there. */
type Changeable = Pick<
  SandboxRecord,
  'branch_count' | 'last_branch_memory_path' | 'name' | 'labels' | 'expires_at_unix' | 'on_expire' | 'paused'
>;

/** What a VMM said last goes into the hint of the error, so much of it. */
const hintBytesMax = 500;

/** The sandboxes of this data directory: in memory, and as one record each on disk, which is written first. */
export class Registry {
  readonly #root: string;
  readonly #pins: Pins;
  readonly #housekeeping: Housekeeping;
  readonly #events: EventLog;
  readonly #log: Logger;
  readonly #sandboxes = new Map<string, Sandbox>();
  readonly #unpin = new Map<string, () => void>();
  readonly #unpinBuiltOn = new Map<string, () => void>();
  readonly #endings = new WeakMap<Sandbox, Promise<void>>();
  /** One writer a record at a time: the newest state is the one that stays. */
  readonly #writes = new Map<string, Mutex>();

  constructor(parts: { root: string; pins: Pins; housekeeping: Housekeeping; events: EventLog; log: Logger }) {
    this.#root = parts.root;
    this.#pins = parts.pins;
    this.#housekeeping = parts.housekeeping;
    this.#events = parts.events;
    this.#log = parts.log;
  }

  /** How many run or are about to. */
  get size(): number {
    return this.#sandboxes.size;
  }

  list(): Sandbox[] {
    return [...this.#sandboxes.values()].filter(({ isThere, record }) => isThere && record.kind === 'sandbox');
  }

  /** A sandbox that runs or is paused, by its id or its name. */
  find(idOrName: string): Sandbox {
    const sandbox = this.#sandboxes.get(idOrName) ?? this.list().find(({ record }) => record.name === idOrName);
    if (sandbox === undefined || !sandbox.isThere) throw notFound(idOrName);
    return sandbox;
  }

  /** A sandbox that runs: one that can be asked something. */
  running(idOrName: string): Sandbox {
    const sandbox = this.find(idOrName);
    if (sandbox.state !== 'paused') return sandbox;
    throw new ApiError('sandbox_paused', `Sandbox ${sandbox.id} is paused: nothing in it can answer.`);
  }

  /** All, also those that start or end. */
  all(): Sandbox[] {
    return [...this.#sandboxes.values()];
  }

  /** 1. Notes that a VMM is about to be started, with the layers that it will need. */
  async reserve(record: SandboxRecord, needs: readonly string[]): Promise<Sandbox> {
    this.assertNameFree(record.name);
    const sandbox = this.#add(record, needs);
    await mkdir(sandbox.dir, { recursive: true, mode: 0o700 });
    await this.#save(sandbox);
    return sandbox;
  }

  /** 2. The VMM runs the VM. It is not in the list yet: its guest still has the identity of the snapshot. */
  attach(sandbox: Sandbox, vm: Vm): void {
    sandbox.vm = vm;
    sandbox.record = { ...sandbox.record, vm: { ...vm.record, stack: [...vm.record.stack] } };
    sandbox.guest.retarget(vm.agentSocket, vm.agentPort);
    void this.#watch(sandbox, vm);
  }

  /** 3. The child is itself: from here on it outlives the controller. */
  async run(sandbox: Sandbox, times: { fork_ms: number; ready_ms: number }): Promise<void> {
    sandbox.record = { ...sandbox.record, ...times, state: 'running' };
    await this.#save(sandbox);
    // It may have died while its record was written.
    if (sandbox.state !== 'starting') throw sandbox.ended.signal.reason;
    sandbox.enter('running');
    this.#events.emit('sandbox.created', subjectOf(sandbox));
  }

  /** Takes over a sandbox that an earlier controller started. */
  adopt(record: SandboxRecord, vm: Vm): Sandbox {
    const sandbox = this.#add(record, [...vm.record.stack, record.root_disk.digest]);
    this.attach(sandbox, vm);
    sandbox.enter('running');
    if (record.paused) sandbox.enter('paused');
    return sandbox;
  }

  /** Throws `name_taken` when another sandbox has it. */
  assertNameFree(name: string | null, own?: Sandbox): void {
    const other = this.all().find((sandbox) => sandbox !== own && name !== null && sandbox.record.name === name);
    if (other !== undefined) throw new ApiError('name_taken', `The name '${name}' is that of sandbox ${other.id}.`);
  }

  /** Notes what has changed. In memory at once; resolves when it is on disk. */
  async note(sandbox: Sandbox, what: Partial<Changeable>): Promise<void> {
    sandbox.record = { ...sandbox.record, ...what };
    await this.#save(sandbox);
  }

  /**
   * A snapshot that sandboxes were started from out of RAM is on disk: their records name what outlives the pager.
   * They are known by the stack that they have, since the tag may have been another snapshot's before.
   */
  async rebase(ramStack: readonly string[], stored: StoredSnapshot): Promise<void> {
    for (const sandbox of this.#sandboxes.values()) {
      const { record } = sandbox;
      if (record.snapshot_tag !== stored.tag || record.snapshot_digest !== null) continue;
      if (record.vm === null || record.vm.stack.join() !== ramStack.join()) continue;
      if (!sandbox.isThere && sandbox.state !== 'starting') continue;
      const stack = stored.memory.map((blob) => blob.digest);
      sandbox.record = { ...record, snapshot_digest: stored.manifest.digest, vm: { ...record.vm, stack } };
      // Both names for now: the pager that is up knows the VM by the old ones.
      this.#pin(sandbox, [...record.vm.stack, ...stack, record.root_disk.digest]);
      await this.#save(sandbox);
    }
  }

  /** What its VM's next branch is built on stays, also when the snapshot that it is of is removed. */
  holdBuiltOn(sandbox: Sandbox): void {
    if (!this.#sandboxes.has(sandbox.id)) return;
    const before = this.#unpinBuiltOn.get(sandbox.id);
    this.#unpinBuiltOn.set(sandbox.id, this.#pins.hold(sandbox.vm?.builtOn ?? []));
    before?.();
  }

  /** Ends a sandbox and removes all that it had. Returns once nothing of it is left. Idempotent. */
  async end(sandbox: Sandbox, why?: ApiError): Promise<void> {
    await this.#end(sandbox, why ?? new ApiError('not_found_sandbox', `Sandbox ${sandbox.id} was ended.`));
  }

  async #watch(sandbox: Sandbox, vm: Vm): Promise<void> {
    const exit = await vm.exited;
    if (sandbox.vm !== vm || sandbox.state === 'ending' || sandbox.state === 'gone') return;
    this.#log.warn({ sandbox: sandbox.id, ...exit }, 'the VMM of a sandbox ended by itself');
    // Of a VM that another controller started only the end is seen, not how it came.
    const how = exit.why ?? exit.signal ?? (exit.code === null ? null : `exit code ${exit.code}`);
    const sentence = `Sandbox ${sandbox.id} ended by itself${how === null ? '' : ` (${how})`}.`;
    await this.#end(sandbox, new ApiError('guest_unreachable', sentence, { hint: exit.log.slice(-hintBytesMax) }));
  }

  #end(sandbox: Sandbox, why: ApiError): Promise<void> {
    let ending = this.#endings.get(sandbox);
    if (ending === undefined) {
      ending = this.#endOnce(sandbox, why);
      this.#endings.set(sandbox, ending);
    }
    return ending;
  }

  async #endOnce(sandbox: Sandbox, why: ApiError): Promise<void> {
    const wasThere = sandbox.isThere && sandbox.record.kind === 'sandbox';
    sandbox.enter('ending');
    sandbox.ended.abort(why);
    sandbox.guest.close();
    try {
      await sandbox.vm?.kill();
    } catch (error) {
      this.#log.error({ err: error, sandbox: sandbox.id }, 'could not end a VMM cleanly');
    }
    // A record that is being written would otherwise come back into the directory that is removed.
    await this.#mutex(sandbox).run(() => removeTree(this.#root, sandbox.dir));
    sandbox.enter('gone');
    this.#sandboxes.delete(sandbox.id);
    if (wasThere) this.#events.emit('sandbox.ended', { ...subjectOf(sandbox), reason: why.message });
    this.#writes.delete(sandbox.id);
    for (const unpin of [this.#unpin, this.#unpinBuiltOn]) {
      unpin.get(sandbox.id)?.();
      unpin.delete(sandbox.id);
    }
    this.#housekeeping.request();
  }

  #add(record: SandboxRecord, needs: readonly string[]): Sandbox {
    const sandbox = new Sandbox(join(this.#root, record.id), record, new GuestLink(record.id));
    this.#sandboxes.set(record.id, sandbox);
    this.#pin(sandbox, needs);
    return sandbox;
  }

  #pin(sandbox: Sandbox, names: readonly string[]): void {
    const before = this.#unpin.get(sandbox.id);
    this.#unpin.set(sandbox.id, this.#pins.hold(names));
    before?.();
  }

  async #save(sandbox: Sandbox): Promise<void> {
    await this.#mutex(sandbox).run(async () => {
      if (sandbox.state === 'starting' || sandbox.isThere) await writeRecord(sandbox.dir, sandbox.record);
    });
  }

  #mutex(sandbox: Sandbox): Mutex {
    let mutex = this.#writes.get(sandbox.id);
    if (mutex === undefined) {
      mutex = new Mutex();
      this.#writes.set(sandbox.id, mutex);
    }
    return mutex;
  }
}

/** What an event about a sandbox is about. */
export function subjectOf({ id, record }: Sandbox): Subject {
  return {
    sandbox: id,
    snapshot: record.snapshot_tag,
    ...(record.workspace !== null && { workspace: record.workspace }),
  };
}

function notFound(id: string): ApiError {
  return new ApiError('not_found_sandbox', `There is no sandbox '${id}'.`);
}
