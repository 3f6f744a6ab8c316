import { ApiError, isSandboxId, type SandboxInfo, type UpdateSandboxRequest } from '@forkd/api';
import { subjectOf } from '../state/registry.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { askVm } from './ask-vm.ts';
import type { Host } from './host.ts';
import { setClock } from './set-clock.ts';

type LifecycleHost = Pick<Host, 'registry' | 'workspaces' | 'vmm' | 'events'>;
type PauseHost = LifecycleHost & Pick<Host, 'branches'>;
type ResumeHost = LifecycleHost & Pick<Host, 'log'>;

/** Pauses a sandbox until it is resumed, even if the controller ends meanwhile. A paused sandbox stays paused. */
export function pause(host: PauseHost, idOrName: string): Promise<SandboxInfo> {
  return change(host, idOrName, async (sandbox) => {
    await host.branches.settled(sandbox.id);
    if (sandbox.state === 'paused') return;
    if (sandbox.branching !== null) {
      const sentence = `Sandbox ${sandbox.id} cannot be paused: a branch '${sandbox.branching}' of it is under way.`;
      throw new ApiError('branch_in_flight', sentence);
    }
    await askVm(host.vmm, sandbox, (vm, signal) => vm.pause(signal));
    sandbox.enter('paused');
    await host.registry.note(sandbox, { paused: true });
    host.events.emit('sandbox.paused', subjectOf(sandbox));
  });
}

export function resume(host: ResumeHost, idOrName: string): Promise<SandboxInfo> {
  return change(host, idOrName, async (sandbox) => {
    if (sandbox.state === 'running') return;
    await askVm(host.vmm, sandbox, (vm, signal) => vm.resume(signal));
    sandbox.enter('running');
    await host.registry.note(sandbox, { paused: false });
    await setClock(host, sandbox);
    host.events.emit('sandbox.resumed', subjectOf(sandbox));
  });
}

/** Changes the name, the labels or the time to live of a sandbox. */
export function updateSandbox(
  host: LifecycleHost,
  idOrName: string,
  request: UpdateSandboxRequest,
): Promise<SandboxInfo> {
  return change(host, idOrName, async (sandbox) => {
    const { name, labels, ttl_secs: ttlSecs, on_expire: onExpire } = request;
    if (name != null) {
      assertName(name);
      host.registry.assertNameFree(name, sandbox);
      host.workspaces.assertNameFree(name);
    }
    await host.registry.note(sandbox, {
      ...(name !== undefined && { name }),
      ...(labels !== undefined && { labels: labels ?? {} }),
      ...(ttlSecs !== undefined && { expires_at_unix: expiryOf(ttlSecs) }),
      ...(onExpire !== undefined && { on_expire: onExpire }),
    });
    host.events.emit('sandbox.updated', subjectOf(sandbox));
  });
}

export function endSandbox({ registry }: Pick<Host, 'registry'>, idOrName: string): Promise<void> {
  return registry.end(registry.find(idOrName));
}

/** Makes one change at a time to a sandbox. */
function change(
  { registry }: LifecycleHost,
  idOrName: string,
  make: (sandbox: Sandbox) => Promise<void>,
): Promise<SandboxInfo> {
  const { id, changes } = registry.find(idOrName);
  return changes.run(async () => {
    // The sandbox may have ended while another change was made.
    const sandbox = registry.find(id);
    await make(sandbox);
    return sandbox.info();
  });
}

/** Refuses a name that looks like an id, since it could be meant as one. */
export function assertName(name: string): void {
  if (isSandboxId(name)) throw new ApiError('bad_request', `name: '${name}' looks like the id of a sandbox.`);
}

export function expiryOf(ttlSecs: number | null): number | null {
  return ttlSecs === null ? null : Math.ceil(Date.now() / 1000) + ttlSecs;
}
