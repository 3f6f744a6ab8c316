import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import { Count, Labels, Omittable, Tag } from './common.ts';

/** stale: it was running, and its sandbox has ended in another way than by being suspended. */
export const WorkspaceStatus = Type.Union([Type.Literal('running'), Type.Literal('suspended'), Type.Literal('stale')]);
export type WorkspaceStatus = Static<typeof WorkspaceStatus>;

/** A sandbox with a name that outlives its VM: suspended it is a snapshot, resumed a fork of that. */
export const WorkspaceInfo = Type.Object({
  /** `ws-` and ten hex digits. */
  id: Type.String(),
  name: Type.String(),
  source_snapshot_tag: Type.String(),
  /** The snapshot of its last suspension; absent before the first. */
  current_state_tag: Type.Optional(Type.String()),
  status: WorkspaceStatus,
  live_sandbox_id: Type.Optional(Type.String()),
  created_at_unix: Count,
  last_active_unix: Count,
  /** Its settings: each sandbox that it has is started with them. */
  memory_limit_mib: Type.Optional(Count),
  labels: Type.Optional(Labels),
});
export type WorkspaceInfo = Static<typeof WorkspaceInfo>;

export const WorkspaceList = Type.Array(WorkspaceInfo);

export const WorkspaceParams = Type.Object({ name: Type.String() });
export type WorkspaceParams = Static<typeof WorkspaceParams>;

export const CreateWorkspaceRequest = Type.Object({
  name: Tag,
  snapshot_tag: Tag,
  per_child_netns: Type.Optional(Type.Boolean({ default: false })),
  memory_limit_mib: Omittable(Type.Integer({ minimum: limits.memoryLimitMibMin, maximum: limits.memMibMax })),
  labels: Omittable(Labels),
});
export type CreateWorkspaceRequest = Static<typeof CreateWorkspaceRequest>;

export const SuspendWorkspaceRequest = Type.Object({
  /** Accepted: only what changed is ever written. */
  diff: Type.Optional(Type.Boolean({ default: false })),
});
export type SuspendWorkspaceRequest = Static<typeof SuspendWorkspaceRequest>;
