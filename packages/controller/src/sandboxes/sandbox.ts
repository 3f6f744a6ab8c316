import { join } from 'node:path';

import type { SandboxInfo } from '@forkd/api';
import type { Vm } from '@forkd/engine';
import { Mutex } from '@forkd/store';

import type { Transitions } from '../transitions.ts';
import { assertTransition } from '../transitions.ts';
import type { GuestLink } from './guest-link.ts';
import type { SandboxRecord } from './record.ts';

/**
 * starting: its record is on disk, its VMM may or may not be there. running: it has an identity of its own and is in
 * the list. paused: it stands still, with its memory. ending: its VMM is being killed. gone: nothing of it is left.
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
  /** Fires when it ends, with why: whoever waits for its guest need wait no longer. */
  readonly ended = new AbortController();
  record: SandboxRecord;
  vm: Vm | null = null;
  /** The tag of the branch that is under way. One at a time. */
  branching: string | null = null;
  /** Commands and evaluations that this controller has run in it. */
  execCount = 0;
  /** Whoever pauses it, lets it go on or changes its settings does so alone. */
  readonly changes = new Mutex();
  #state: SandboxState = 'starting';

  constructor(dir: string, record: SandboxRecord, guest: GuestLink) {
    this.dir = dir;
    this.record = record;
    this.guest = guest;
  }

  /** The VMM's own part of the directory. */
  get vmDir(): string {
    return vmDirOf(this.dir);
  }

  get id(): string {
    return this.record.id;
  }

  get state(): SandboxState {
    return this.#state;
  }

  /** It is in the list. */
  get isThere(): boolean {
    return this.#state === 'running' || this.#state === 'paused';
  }

  enter(next: SandboxState): void {
    assertTransition(sandboxTransitions, `sandbox ${this.id}`, this.#state, next);
    this.#state = next;
  }

  info(): SandboxInfo {
    const { record, vm } = this;
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
      state: this.#state === 'paused' ? 'paused' : 'running',
      ...(record.name !== null && { name: record.name }),
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
}

/** Where the VMM of the sandbox in `dir` has its files, which is its working directory. */
export function vmDirOf(dir: string): string {
  return join(dir, 'vmm');
}
