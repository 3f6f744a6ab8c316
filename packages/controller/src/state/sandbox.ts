import { join } from 'node:path';
import type { SandboxInfo } from '@forkd/api';
import type { Vm } from '@forkd/engine';
import { Mutex } from '@forkd/store';
import type { GuestLink } from './guest-link.ts';
import type { SandboxRecord } from './sandbox-record.ts';
import { type Transitions, assertTransition } from './transitions.ts';

/**
 * starting: the record is on disk, and the VMM may exist. running: the sandbox has its own identity and is in the list.
 * paused: it stands still, with its memory. ending: its VMM is being killed. gone: nothing of it is left.
 */
export type SandboxState = 'starting' | 'running' | 'paused' | 'ending' | 'gone';

export const sandboxTransitions: Transitions<SandboxState> = {
  starting: ['running', 'ending'],
  running: ['paused', 'ending'],
  paused: ['running', 'ending'],
  ending: ['gone'],
  gone: [],
};

/** A sandbox, or the VM of a template that is being built. Only the registry changes it. */
export class Sandbox {
  readonly dir: string;
  readonly guest: GuestLink;
  /** Fires with the reason when the sandbox ends, so that no call keeps waiting for its guest. */
  readonly ended = new AbortController();
  record: SandboxRecord;
  vm: Vm | null = null;
  /** The tag of the branch that is under way, of which there is at most one. */
  branching: string | null = null;
  /** How long the guest's clock has stood still in pauses of branches since it was set. */
  clockBehindMs = 0;
  /** Commands and evaluations that this controller has run in the sandbox. */
  execCount = 0;
  /** Connections to terminals of commands. */
  viewers = 0;
  /** Held while the sandbox is paused, resumed or changed: one change at a time. */
  readonly changes = new Mutex();
  #state: SandboxState = 'starting';

  constructor(dir: string, record: SandboxRecord, guest: GuestLink) {
    this.dir = dir;
    this.record = record;
    this.guest = guest;
  }

  /** The part of the directory that belongs to the VMM. */
  get vmDir(): string {
    return vmDirOf(this.dir);
  }

  get id(): string {
    return this.record.id;
  }

  get state(): SandboxState {
    return this.#state;
  }

  /** True while the sandbox is in the list. */
  get isThere(): boolean {
    return this.#state === 'running' || this.#state === 'paused';
  }

  enter(next: SandboxState): void {
    assertTransition(sandboxTransitions, `sandbox ${this.id}`, this.#state, next);
    this.#state = next;
  }

  info(): SandboxInfo {
    return infoOf(this.record, this.vm, this.#state === 'paused' ? 'paused' : 'running');
  }
}

/** Why a sandbox stands still that its disk has stopped. */
export const STALLS: Readonly<Record<NonNullable<Vm['stall']>, string>> = {
  no_space: 'The host has no space left for its disk.',
  no_server: 'The server of its disk has ended, and is started again.',
};

/** The description of a sandbox, from its record and its VM if that is known. */
export function infoOf(record: SandboxRecord, vm: Vm | null, state: 'running' | 'paused'): SandboxInfo {
  return {
    id: record.id,
    snapshot_tag: record.snapshot_tag,
    netns: null,
    guest_addr: `unix:${vm?.agentSocket ?? ''}`,
    created_at_unix: record.created_at_unix,
    pid: vm?.record.pid ?? null,
    memory_limit_mib: record.memory_limit_mib ?? null,
    has_branched: record.branch_count > 0,
    last_branch_memory_path: record.last_branch_memory_path,
    branch_count: record.branch_count,
    hostname: record.id,
    state,
    ...(vm?.stall != null && { stalled: STALLS[vm.stall] }),
    ...(record.name !== null && { name: record.name }),
    ...(record.network !== undefined && { network: record.network }),
    ...(Object.keys(record.labels).length > 0 && { labels: record.labels }),
    ...(record.expires_at_unix !== null && {
      expires_at_unix: record.expires_at_unix,
      on_expire: record.on_expire,
    }),
    ...(record.workspace !== null && { workspace: record.workspace }),
    ...(record.warnings.length > 0 && { warnings: record.warnings }),
    ...(record.fork_ms !== null && { fork_ms: record.fork_ms }),
    ...(record.ready_ms !== null && { ready_ms: record.ready_ms }),
  };
}

/** Directory of the VMM's files for the sandbox in `dir`. The VMM has it as its working directory. */
export function vmDirOf(dir: string): string {
  return join(dir, 'vmm');
}
