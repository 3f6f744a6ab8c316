import type { SandboxInfo, SandboxState, SandboxStats, SnapshotInfo, SnapshotStatus } from '@forkd/api';

export interface SnapshotNode {
  kind: 'snapshot';
  tag: string;
  status: SnapshotStatus;
  /** Bytes on disk that the snapshot adds to its parent; null if unknown. */
  layer_bytes: number | null;
  /** The sandbox that the snapshot is a branch of, if any. The sandbox may have ended. */
  branched_from: string | null;
  children: TreeNode[];
}

export interface SandboxNode {
  kind: 'sandbox';
  id: string;
  name: string | null;
  state: SandboxState;
  private_bytes: number | null;
  shared_bytes: number | null;
  /** Null if the sandbox has no disk, or if it is unknown. */
  disk_own_bytes: number | null;
  disk_shared_bytes: number | null;
  children: TreeNode[];
}

export type TreeNode = SnapshotNode | SandboxNode;

/** The memory of a sandbox, and the bytes of its disk if it has one. */
export type SandboxUse = Pick<SandboxStats, 'private_bytes' | 'shared_bytes' | 'disk_own_bytes' | 'disk_shared_bytes'>;

export interface TreeParts {
  snapshots: readonly SnapshotInfo[];
  sandboxes: readonly SandboxInfo[];
  layerBytes: ReadonlyMap<string, number>;
  stats: ReadonlyMap<string, SandboxUse>;
}

/**
 * Builds the tree of snapshots and sandboxes. A branch is below its sandbox while the sandbox exists, and then below the
 * snapshot that the sandbox was started from. A node without an existing parent is a root.
 */
export function buildTree(parts: TreeParts): TreeNode[] {
  const snapshots = new Map(parts.snapshots.map((info) => [info.tag, snapshotNode(info, parts)]));
  const sandboxes = new Map(parts.sandboxes.map((info) => [info.id, sandboxNode(info, parts)]));
  const roots: TreeNode[] = [];
  for (const info of parts.snapshots) {
    const node = snapshots.get(info.tag) as SnapshotNode;
    const parent = sandboxes.get(info.branched_from ?? '') ?? snapshots.get(info.parent_tag ?? '');
    (parent === undefined || parent === node ? roots : parent.children).push(node);
  }
  for (const info of parts.sandboxes) {
    const node = sandboxes.get(info.id) as SandboxNode;
    (snapshots.get(info.snapshot_tag)?.children ?? roots).push(node);
  }
  return roots;
}

/** Draws the tree as lines. `label` returns the text of a node. */
export function drawTree(nodes: readonly TreeNode[], label: (node: TreeNode) => string): string[] {
  return nodes.flatMap((node) => [label(node), ...drawChildren(node.children, label)]);
}

function drawChildren(nodes: readonly TreeNode[], label: (node: TreeNode) => string): string[] {
  return nodes.flatMap((node, index) => {
    const isLast = index === nodes.length - 1;
    const below = drawChildren(node.children, label);
    return [`${isLast ? '└─ ' : '├─ '}${label(node)}`, ...below.map((line) => `${isLast ? '   ' : '│  '}${line}`)];
  });
}

function snapshotNode(info: SnapshotInfo, { layerBytes }: TreeParts): SnapshotNode {
  return {
    kind: 'snapshot',
    tag: info.tag,
    status: info.status,
    layer_bytes: layerBytes.get(info.tag) ?? null,
    branched_from: info.branched_from ?? null,
    children: [],
  };
}

function sandboxNode(info: SandboxInfo, { stats }: TreeParts): SandboxNode {
  const use = stats.get(info.id);
  return {
    kind: 'sandbox',
    id: info.id,
    name: info.name ?? null,
    state: info.state ?? 'running',
    private_bytes: use?.private_bytes ?? null,
    shared_bytes: use?.shared_bytes ?? null,
    disk_own_bytes: use?.disk_own_bytes ?? null,
    disk_shared_bytes: use?.disk_shared_bytes ?? null,
    children: [],
  };
}
