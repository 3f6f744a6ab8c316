import type { SandboxInfo, UpdateSandboxRequest } from '@forkd/api';
import { ApiError, isSandboxId } from '@forkd/api';

import type { EventLog } from '../events.ts';
import type { Vmm } from '../runtime/vmm.ts';
import { askVm } from './ask-vm.ts';
import type { Registry } from './registry.ts';
import { subjectOf } from './registry.ts';
import type { Sandbox } from './sandbox.ts';

/** Pauses sandboxes, lets them go on, and changes what they are called and how long they live. */
export class Lifecycle {
  readonly #registry: Registry;
  readonly #vmm: Pick<Vmm, 'use'>;
  readonly #events: EventLog;

  constructor(parts: { registry: Registry; vmm: Pick<Vmm, 'use'>; events: EventLog }) {
    this.#registry = parts.registry;
    this.#vmm = parts.vmm;
    this.#events = parts.events;
  }

  /** It stands still until it is resumed, also if the controller ends meanwhile. One that is paused already stays so. */
  pause(idOrName: string): Promise<SandboxInfo> {
    return this.#change(idOrName, async (sandbox) => {
      if (sandbox.state === 'paused') return;
      if (sandbox.branching !== null) {
        const sentence = `Sandbox ${sandbox.id} cannot be paused: a branch '${sandbox.branching}' of it is under way.`;
        throw new ApiError('branch_in_flight', sentence);
      }
      await askVm(this.#vmm, sandbox, (vm, signal) => vm.pause(signal));
      sandbox.enter('paused');
      await this.#registry.note(sandbox, { paused: true });
      this.#events.emit('sandbox.paused', subjectOf(sandbox));
    });
  }

  resume(idOrName: string): Promise<SandboxInfo> {
    return this.#change(idOrName, async (sandbox) => {
      if (sandbox.state === 'running') return;
      await askVm(this.#vmm, sandbox, (vm, signal) => vm.resume(signal));
      sandbox.enter('running');
      await this.#registry.note(sandbox, { paused: false });
      this.#events.emit('sandbox.resumed', subjectOf(sandbox));
    });
  }

  update(idOrName: string, request: UpdateSandboxRequest): Promise<SandboxInfo> {
    return this.#change(idOrName, async (sandbox) => {
      const { name, labels, ttl_secs: ttlSecs, on_expire: onExpire } = request;
      if (name != null) {
        assertName(name);
        this.#registry.assertNameFree(name, sandbox);
      }
      await this.#registry.note(sandbox, {
        ...(name !== undefined && { name }),
        ...(labels !== undefined && { labels: labels ?? {} }),
        ...(ttlSecs !== undefined && { expires_at_unix: expiryOf(ttlSecs) }),
        ...(onExpire !== undefined && { on_expire: onExpire }),
      });
      this.#events.emit('sandbox.updated', subjectOf(sandbox));
    });
  }

  #change(idOrName: string, change: (sandbox: Sandbox) => Promise<void>): Promise<SandboxInfo> {
    const { id, changes } = this.#registry.find(idOrName);
    return changes.run(async () => {
      // It may have ended while another change was made.
      const sandbox = this.#registry.find(id);
      await change(sandbox);
      return sandbox.info();
    });
  }
}

/** A name that looks like an id could be meant as one. */
export function assertName(name: string): void {
  if (isSandboxId(name)) throw new ApiError('bad_request', `name: '${name}' looks like the id of a sandbox.`);
}

export function expiryOf(ttlSecs: number | null): number | null {
  return ttlSecs === null ? null : Math.ceil(Date.now() / 1000) + ttlSecs;
}
