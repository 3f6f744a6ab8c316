import { ApiError, newWorkspaceId, type CreateWorkspaceRequest, type WorkspaceInfo } from '@forkd/api';
import { unixNow } from '../clock.ts';
import { messageOf, withContext } from '../errors.ts';
import type { WorkspaceRecord } from '../state/workspace-record.ts';
import { branch } from './branch.ts';
import type { Host } from './host.ts';
import { removeSnapshot } from './remove.ts';
import { startChildren } from './start-children.ts';

/*
 * A workspace is a sandbox with a name that outlives its VM. Each suspension is a snapshot of its own, and the one before
 * is removed once the next is on disk and noted.
 */

export function listWorkspaces({ workspaces }: Host): WorkspaceInfo[] {
  return workspaces.list().map((record) => workspaces.info(record));
}

export function getWorkspace({ workspaces }: Host, name: string): WorkspaceInfo {
  return workspaces.info(workspaces.find(name));
}

export async function createWorkspace(
  host: Host,
  request: CreateWorkspaceRequest,
  signal: AbortSignal,
): Promise<WorkspaceInfo> {
  const { workspaces, registry, events } = host;
  const { name, snapshot_tag: snapshotTag } = request;
  if (workspaces.has(name)) throw new ApiError('workspace_exists', `There is a workspace '${name}' already.`);
  registry.assertNameFree(name);
  return workspaces.alone(name, async () => {
    const nowUnix = unixNow();
    const record: WorkspaceRecord = {
      format: 1,
      id: newWorkspaceId(),
      name,
      source_snapshot_tag: snapshotTag,
      state_tag: null,
      suspensions: 0,
      is_running: true,
      created_at_unix: nowUnix,
      last_active_unix: nowUnix,
      memory_limit_mib: request.memory_limit_mib ?? null,
      per_child_netns: request.per_child_netns ?? false,
      labels: request.labels ?? {},
    };
    await workspaces.save(record);
    try {
      await start(host, record, snapshotTag, signal);
    } catch (error) {
      await workspaces.forget(record);
      throw error;
    }
    events.emit('workspace.created', { workspace: name, snapshot: snapshotTag });
    return workspaces.info(record);
  });
}

/** Branches the sandbox of a workspace, and ends the sandbox once the branch is on disk. */
export async function suspendWorkspace(host: Host, name: string): Promise<WorkspaceInfo> {
  const { workspaces, registry, events } = host;
  return workspaces.alone(name, async () => {
    const record = workspaces.find(name);
    const live = workspaces.liveOf(record);
    if (live === undefined) {
      const sentence = `Workspace '${name}' is ${workspaces.statusOf(record)}: there is nothing to suspend.`;
      throw new ApiError('workspace_not_running', sentence);
    }
    const suspensions = record.suspensions + 1;
    // The number is saved first: a suspension that fails must not leave its tag to the next one.
    await workspaces.save({ ...record, suspensions });
    const tag = `${record.id}-${suspensions}`;
    try {
      await branch(host, live.id, { tag, mode: 'diff', until: 'durable' });
    } catch (error) {
      throw withContext(`Workspace '${name}' runs on`, error);
    }
    const suspended = { ...record, suspensions, state_tag: tag, is_running: false, last_active_unix: unixNow() };
    await workspaces.save(suspended);
    const error = new ApiError('not_found_sandbox', `Sandbox ${live.id} ended when workspace '${name}' was suspended.`);
    await registry.end(live, { reason: 'suspended', error });
    await removeStates(host, suspended);
    await letGo(host, tag);
    events.emit('workspace.suspended', { workspace: name, snapshot: tag });
    return workspaces.info(suspended);
  });
}

/** Starts a workspace from its last state, or from its source if it has none. A running workspace stays as it is. */
export async function resumeWorkspace(host: Host, name: string, signal: AbortSignal): Promise<WorkspaceInfo> {
  const { workspaces, events } = host;
  return workspaces.alone(name, async () => {
    const record = workspaces.find(name);
    if (workspaces.liveOf(record) !== undefined) return workspaces.info(record);
    const tag = record.state_tag ?? record.source_snapshot_tag;
    const running = { ...record, is_running: true, last_active_unix: unixNow() };
    await workspaces.save(running);
    try {
      await start(host, running, tag, signal);
    } catch (error) {
      await workspaces.save(record);
      throw error;
    }
    events.emit('workspace.resumed', { workspace: name, snapshot: tag });
    return workspaces.info(running);
  });
}

/** Ends the sandbox of a workspace and removes its state. The snapshot that the workspace was made from stays. */
export async function removeWorkspace(host: Host, name: string): Promise<void> {
  const { workspaces, registry, events } = host;
  await workspaces.alone(name, async () => {
    const record = workspaces.find(name);
    const live = workspaces.liveOf(record);
    if (live !== undefined) await registry.end(live);
    await workspaces.forget(record);
    await removeStates(host, { ...record, state_tag: null });
    events.emit('workspace.removed', { workspace: name });
  });
}

/** Finishes or takes back what a crash interrupted. Called at the start, once the sandboxes have been recovered. */
export async function recoverWorkspaces(host: Host): Promise<void> {
  const { workspaces, registry, events } = host;
  await workspaces.load();
  for (const record of workspaces.list()) {
    const live = workspaces.liveOf(record);
    // The controller ended after the workspace was suspended, and before its sandbox was ended.
    if (live !== undefined && !record.is_running) await registry.end(live);
    await removeStates(host, record);
  }
  events.listen(({ type, workspace: name, reason }) => {
    if (type !== 'sandbox.ended' || name === undefined || !workspaces.has(name) || workspaces.isBusy(name)) return;
    if (workspaces.statusOf(workspaces.find(name)) !== 'stale') return;
    events.emit('workspace.stale', { workspace: name, ...(reason !== undefined && { reason }) });
  });
}

async function start(host: Host, record: WorkspaceRecord, tag: string, signal: AbortSignal): Promise<void> {
  const request = {
    snapshot_tag: tag,
    memory_limit_mib: record.memory_limit_mib,
    per_child_netns: record.per_child_netns,
    labels: record.labels,
  };
  try {
    await startChildren(host, request, signal, { workspace: record.name });
  } catch (error) {
    throw withContext(`Workspace '${record.name}'`, error);
  }
}

/** Removes all states of a workspace but the current one. Snapshots that came from them still have what they need. */
async function removeStates(host: Host, record: WorkspaceRecord): Promise<void> {
  const states = (await host.catalog.stored()).filter(({ tag }) => tag.startsWith(`${record.id}-`));
  for (const { tag } of states) {
    if (tag === record.state_tag) continue;
    try {
      await removeSnapshot(host, tag, { force: true });
    } catch (error) {
      host.log.warn({ workspace: record.name, tag, reason: messageOf(error) }, 'could not remove an earlier state');
    }
  }
}

/** Frees the RAM of layers that only this state of a suspended workspace has: they will not be needed soon. */
async function letGo({ catalog, vmm, log }: Host, tag: string): Promise<void> {
  try {
    const all = await catalog.stored();
    const digestsOf = (isMeant: (other: string) => boolean) =>
      all.filter((snapshot) => isMeant(snapshot.tag)).flatMap(({ memory }) => memory.map(({ digest }) => digest));
    const others = new Set(digestsOf((other) => other !== tag));
    await vmm.pagerIfUp()?.letGo(digestsOf((other) => other === tag).filter((digest) => !others.has(digest)));
  } catch (error) {
    log.warn({ tag, reason: messageOf(error) }, 'could not free the memory of a suspended workspace');
  }
}
