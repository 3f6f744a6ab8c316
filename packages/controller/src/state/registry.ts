import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ApiError, type EndReason, type SandboxInfo } from '@forkd/api';
import { consoleFile, readTail, type Vm } from '@forkd/engine';
import { type StoredSnapshot, Mutex, removeTree } from '@forkd/store';
import type { Logger } from 'pino';
import { limits } from '../limits.ts';
import type { EndedSandboxes, Ending } from './ended.ts';
import type { EventLog, Subject } from './events.ts';
import { GuestLink } from './guest-link.ts';
import type { Housekeeping } from './housekeeping.ts';
import type { Pins } from './pins.ts';
import { type SandboxRecord, writeRecord } from './sandbox-record.ts';
import { Sandbox, STALLS, infoOf, vmDirOf } from './sandbox.ts';
import { endingOf, lostEndingOf, type Loss } from './vm-end.ts';

/** The fields of a record that may change while the sandbox is there. */
type Changeable = Pick<
  SandboxRecord,
  | 'branch_count'
  | 'last_branch_memory_path'
  | 'name'
  | 'labels'
  | 'expires_at_unix'
  | 'on_expire'
  | 'paused'
  | 'network'
  | 'warnings'
>;

interface RegistryParts {
  root: string;
  ended: EndedSandboxes;
  pins: Pins;
  housekeeping: Pick<Housekeeping, 'request'>;
  events: EventLog;
  metrics: { sandboxEnded(reason: EndReason): void };
  log: Logger;
}

/** The sandboxes of this data directory: in memory, and as one record each on disk, which is written first. */
export class Registry {
  readonly #parts: RegistryParts;
  readonly #sandboxes = new Map<string, Sandbox>();
  readonly #unpin = new Map<string, () => void>();
  readonly #unpinBuiltOn = new Map<string, () => void>();
  readonly #endings = new WeakMap<Sandbox, Promise<void>>();
  /** A mutex for each record, so that the newest state is written last. */
  readonly #writes = new Map<string, Mutex>();

  constructor(parts: RegistryParts) {
    this.#parts = parts;
  }

  /** The sandboxes that ended lately. */
  get ended(): EndedSandboxes {
    return this.#parts.ended;
  }

  /** The number of sandboxes that are starting, running or ending. */
  get size(): number {
    return this.#sandboxes.size;
  }

  list(): Sandbox[] {
    return [...this.#sandboxes.values()].filter(({ isThere, record }) => isThere && record.kind === 'sandbox');
  }

  /** A sandbox that runs or is paused, by its id or its name. */
  find(idOrName: string): Sandbox {
    const sandbox = this.#sandboxes.get(idOrName) ?? this.list().find(({ record }) => record.name === idOrName);
    if (sandbox === undefined || !sandbox.isThere) throw this.ended.missing(idOrName);
    return sandbox;
  }

  /** A running sandbox, which can answer requests. */
  running(idOrName: string): Sandbox {
    const sandbox = this.find(idOrName);
    if (sandbox.state !== 'paused') return sandbox;
    throw new ApiError('sandbox_paused', `Sandbox ${sandbox.id} is paused: nothing in it can answer.`);
  }

  /** Every sandbox, even one that is starting or ending. */
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
    vm.onStall = (stall) => this.#stalled(sandbox, stall);
    this.#watch(sandbox, vm).catch((error: unknown) => {
      this.#parts.log.error({ err: error, sandbox: sandbox.id }, 'could not end a sandbox whose VMM ended by itself');
    });
  }

  /** 3. The child is itself: from here on it outlives the controller. */
  async run(sandbox: Sandbox, times: { fork_ms: number; ready_ms: number }): Promise<void> {
    sandbox.record = { ...sandbox.record, ...times, state: 'running' };
    await this.#save(sandbox);
    // The sandbox may have ended while its record was written.
    if (sandbox.state !== 'starting') throw sandbox.ended.signal.reason;
    sandbox.enter('running');
    this.#parts.events.emit('sandbox.created', subjectOf(sandbox));
  }

  /** Takes over a sandbox that an earlier controller started. */
  adopt(record: SandboxRecord, vm: Vm): Sandbox {
    const sandbox = this.#add(record, [...vm.record.stack, record.root_disk.digest]);
    this.attach(sandbox, vm);
    sandbox.enter('running');
    if (record.paused) sandbox.enter('paused');
    return sandbox;
  }

  /** Throws `name_taken` if another sandbox has the name. */
  assertNameFree(name: string | null, own?: Sandbox): void {
    const other = this.all().find((sandbox) => sandbox !== own && name !== null && sandbox.record.name === name);
    if (other !== undefined) throw new ApiError('name_taken', `The name '${name}' is that of sandbox ${other.id}.`);
  }

  /** Notes changes of a record: in memory at once, on disk when this resolves. */
  async note(sandbox: Sandbox, what: Partial<Changeable>): Promise<void> {
    sandbox.record = { ...sandbox.record, ...what };
    await this.#save(sandbox);
  }

  /**
   * Rewrites the records of sandboxes that were started from a snapshot in RAM, which is on disk now: they name what
   * outlives the pager. Their stack identifies them, since another snapshot may have had the tag before.
   */
  async rebase(ramStack: readonly string[], stored: StoredSnapshot): Promise<void> {
    for (const sandbox of this.#sandboxes.values()) {
      const { record } = sandbox;
      if (record.snapshot_tag !== stored.tag || record.snapshot_digest !== null) continue;
      if (record.vm === null || record.vm.stack.join() !== ramStack.join()) continue;
      if (!sandbox.isThere && sandbox.state !== 'starting') continue;
      const stack = stored.memory.map((blob) => blob.digest);
      sandbox.record = { ...record, snapshot_digest: stored.manifest.digest, vm: { ...record.vm, stack } };
      // Hold the old names too, because the present pager knows the VM by them.
      this.#pin(sandbox, [...record.vm.stack, ...stack, record.root_disk.digest]);
      await this.#save(sandbox);
    }
  }

  /** Keeps the layers that the next branch of the VM is built on, even if their snapshot is removed. */
  holdBuiltOn(sandbox: Sandbox): void {
    if (!this.#sandboxes.has(sandbox.id)) return;
    const before = this.#unpinBuiltOn.get(sandbox.id);
    this.#unpinBuiltOn.set(sandbox.id, this.#parts.pins.hold(sandbox.vm?.builtOn ?? []));
    before?.();
  }

  /**
   * Ends a sandbox and removes all that it had. Resolves once nothing of it is left. Idempotent. A directory that cannot be
   * removed is logged: the next controller removes it.
   */
  async end(sandbox: Sandbox, ending?: Ending): Promise<void> {
    const error = new ApiError('not_found_sandbox', `Sandbox ${sandbox.id} was ended.`);
    await this.#end(sandbox, ending ?? { reason: 'killed', error });
  }

  /** Notes a sandbox that an earlier controller left and that is not taken over, unless its end was noted before. */
  async noteLost(record: SandboxRecord, why: Loss): Promise<void> {
    if (this.ended.has(record.id)) return;
    const console = await readConsoleTail({ vmDir: vmDirOf(join(this.#parts.root, record.id)) });
    await this.#noteEnded(infoOf(record, null, 'running'), lostEndingOf(record.id, why, console));
  }

  async #watch(sandbox: Sandbox, vm: Vm): Promise<void> {
    const exit = await vm.exited;
    if (sandbox.vm !== vm || sandbox.state === 'ending' || sandbox.state === 'gone') return;
    this.#parts.log.warn({ sandbox: sandbox.id, ...exit }, 'the VMM of a sandbox ended by itself');
    await this.#end(sandbox, endingOf(sandbox.record, exit, await readConsoleTail(sandbox)));
  }

  /** Reports that the disk of a sandbox has stopped it, or that it runs again. */
  #stalled(sandbox: Sandbox, stall: Vm['stall']): void {
    if (!sandbox.isThere) return;
    const reason = stall === null ? undefined : STALLS[stall];
    this.#parts.log.warn(
      { sandbox: sandbox.id, reason },
      reason === undefined ? 'a sandbox continues' : 'a sandbox stands still',
    );
    this.#parts.events.emit(reason === undefined ? 'sandbox.recovered' : 'sandbox.stalled', {
      ...subjectOf(sandbox),
      ...(reason !== undefined && { reason }),
    });
  }

  #end(sandbox: Sandbox, how: Ending): Promise<void> {
    let ending = this.#endings.get(sandbox);
    if (ending === undefined) {
      ending = this.#endOnce(sandbox, how);
      this.#endings.set(sandbox, ending);
    }
    return ending;
  }

  async #endOnce(sandbox: Sandbox, how: Ending): Promise<void> {
    const wasThere = sandbox.isThere && sandbox.record.kind === 'sandbox';
    sandbox.enter('ending');
    const noted = wasThere ? this.#noteEnded(sandbox.info(), how) : undefined;
    sandbox.ended.abort(how.error);
    sandbox.guest.close();
    try {
      await sandbox.vm?.kill();
    } catch (error) {
      this.#parts.log.error({ err: error, sandbox: sandbox.id }, 'could not end a VMM cleanly');
    }
    // The end is on disk before the record is removed, so that a controller that is killed in between leaves one of them.
    await noted;
    // A record that is being written would otherwise come back into the directory that is removed.
    try {
      await this.#mutex(sandbox).run(() => removeTree(this.#parts.root, sandbox.dir));
    } catch (error) {
      this.#parts.log.error(
        { err: error, sandbox: sandbox.id },
        'could not remove the directory of a sandbox that ended',
      );
    }
    sandbox.enter('gone');
    this.#sandboxes.delete(sandbox.id);
    if (wasThere) this.#parts.events.emit('sandbox.ended', { ...subjectOf(sandbox), reason: how.error.message });
    this.#writes.delete(sandbox.id);
    for (const unpin of [this.#unpin, this.#unpinBuiltOn]) {
      unpin.get(sandbox.id)?.();
      unpin.delete(sandbox.id);
    }
    this.#parts.housekeeping.request();
  }

  #noteEnded(info: SandboxInfo, how: Ending): Promise<void> {
    this.#parts.metrics.sandboxEnded(how.reason);
    return this.ended.add(info, how);
  }

  #add(record: SandboxRecord, needs: readonly string[]): Sandbox {
    const sandbox = new Sandbox(join(this.#parts.root, record.id), record, new GuestLink(record.id));
    this.#sandboxes.set(record.id, sandbox);
    this.#pin(sandbox, needs);
    return sandbox;
  }

  #pin(sandbox: Sandbox, names: readonly string[]): void {
    const before = this.#unpin.get(sandbox.id);
    this.#unpin.set(sandbox.id, this.#parts.pins.hold(names));
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

/** The end of what a guest printed on its console, as it is. The console is removed with the sandbox. */
export function readConsoleTail({ vmDir }: Pick<Sandbox, 'vmDir'>): Promise<string> {
  return readTail(join(vmDir, consoleFile), limits.consoleReadBytes);
}

/** The subject of an event about a sandbox. */
export function subjectOf({ id, record }: Sandbox): Subject {
  return {
    sandbox: id,
    snapshot: record.snapshot_tag,
    ...(record.workspace !== null && { workspace: record.workspace }),
  };
}
