import type { SandboxInfo, SandboxState, SnapshotInfo, SnapshotStatus } from '@forkd/api';

export type SnapshotNode = {
  kind: 'snapshot';
  tag: string;
  status: SnapshotStatus;
  /** What it has on disk that its parent has not; null where that is not known. */
  layer_bytes: number | null;
  /** The sandbox that it is a branch of, if it is one; it may have ended. */
  branched_from: string | null;
  children: TreeNode[];
};

export type SandboxNode = {
  kind: 'sandbox';
  id: string;
  name: string | null;
  state: SandboxState;
  private_bytes: number | null;
  shared_bytes: number | null;
  children: TreeNode[];
};

export type TreeNode = SnapshotNode | SandboxNode;

export type TreeParts = {
  snapshots: readonly SnapshotInfo[];
  sandboxes: readonly SandboxInfo[];
  layerBytes: ReadonlyMap<string, number>;
  memory: ReadonlyMap<string, { private_bytes: number; shared_bytes: number }>;
};

/**
 * What came from what. A branch stands below its sandbox while that is there, and below the snapshot that its sandbox was
 * started from when it has ended; what came from nothing that is left is a root.
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

/** The tree as lines, its branches drawn; `label` says what stands at a node. */
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

function sandboxNode(info: SandboxInfo, { memory }: TreeParts): SandboxNode {
  return {
    kind: 'sandbox',
    id: info.id,
    name: info.name ?? null,
    state: info.state ?? 'running',
    private_bytes: memory.get(info.id)?.private_bytes ?? null,
    shared_bytes: memory.get(info.id)?.shared_bytes ?? null,
    children: [],
  };
}
