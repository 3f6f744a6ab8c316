import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import { Count, field, Labels, Omittable, Tag } from './common.ts';

/** `stale`: the workspace was running, and its sandbox ended without being suspended. */
export const WorkspaceStatus = Type.Union([Type.Literal('running'), Type.Literal('suspended'), Type.Literal('stale')]);
export type WorkspaceStatus = Static<typeof WorkspaceStatus>;

export const WorkspaceInfo = Type.Object(
  {
    id: field(Type.String(), 'Id of the workspace: `ws-` and ten hexadecimal digits.'),
    name: field(Type.String(), 'Name of the workspace.'),
    source_snapshot_tag: field(Type.String(), 'Snapshot that the workspace was created from.'),
    current_state_tag: field(
      Type.Optional(Type.String()),
      'Snapshot of the last suspension. Absent before the first suspension.',
    ),
    status: field(
      WorkspaceStatus,
      '`stale`: the workspace was running, and its sandbox ended without being suspended.',
    ),
    live_sandbox_id: field(Type.Optional(Type.String()), 'Id of its sandbox, while it is running.'),
    created_at_unix: field(Count, 'Time of creation, in seconds since 1970.'),
    last_active_unix: field(Count, 'Time of the last change of status, in seconds since 1970.'),
    memory_limit_mib: field(Type.Optional(Count), 'Memory limit of each of its sandboxes, in MiB.'),
    labels: field(Type.Optional(Labels), 'Labels of each of its sandboxes.'),
  },
  {
    description:
      'A named sandbox that outlives its VM. A suspended workspace is a snapshot; resuming it forks that snapshot.',
    examples: [
      {
        id: 'ws-91c2e07a4d',
        name: 'dev',
        source_snapshot_tag: 'python',
        status: 'running',
        live_sandbox_id: 'sb-3f9a1c0b7e',
        created_at_unix: 1_767_225_600,
        last_active_unix: 1_767_225_600,
      },
    ],
  },
);
export type WorkspaceInfo = Static<typeof WorkspaceInfo>;

export const WorkspaceList = Type.Array(WorkspaceInfo);

export const WorkspaceParams = Type.Object({ name: field(Type.String(), 'Name of the workspace.', 'dev') });
export type WorkspaceParams = Static<typeof WorkspaceParams>;

export const CreateWorkspaceRequest = Type.Object(
  {
    name: field(Tag, 'Name of the new workspace.'),
    snapshot_tag: field(Tag, 'Snapshot to start the first sandbox from.'),
    per_child_netns: field(
      Type.Optional(Type.Boolean({ default: false })),
      'Accepted for older clients. Every sandbox that has a network has one of its own.',
    ),
    memory_limit_mib: field(
      Omittable(Type.Integer({ minimum: limits.memoryLimitMibMin, maximum: limits.memMibMax })),
      'Memory limit of each of its sandboxes, in MiB. Default: no limit.',
    ),
    labels: field(Omittable(Labels), 'Labels of each of its sandboxes.'),
  },
  { description: 'A workspace to create.', examples: [{ name: 'dev', snapshot_tag: 'python' }] },
);
export type CreateWorkspaceRequest = Static<typeof CreateWorkspaceRequest>;

export const SuspendWorkspaceRequest = Type.Object(
  {
    diff: field(
      Type.Optional(Type.Boolean({ default: false })),
      'Accepted for older clients. Only changed pages are ever written.',
    ),
  },
  { description: 'How to suspend a workspace.', examples: [{}] },
);
export type SuspendWorkspaceRequest = Static<typeof SuspendWorkspaceRequest>;
