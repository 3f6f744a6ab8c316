import type { WorkspaceInfo } from '@forkd/api';
import type { Context } from '../../context.ts';

/** Prints a running workspace: the id of its sandbox, or with --json the whole workspace. */
export function printRunning({ out }: Context, info: WorkspaceInfo): void {
  if (out.isJson) {
    out.json(info);
    return;
  }
  if (info.live_sandbox_id !== undefined) out.line(info.live_sandbox_id);
  out.note(`Workspace ${info.name} is ${info.status}, from ${info.current_state_tag ?? info.source_snapshot_tag}.`);
}
