import type { SandboxInfo, SnapshotInfo, SnapshotInfoDetail } from '@forkd/api';
import { isForkdError, type ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { mapSome } from '../lib/concurrent.ts';
import { layerBytes } from '../output/layers.ts';
import { formatBytes } from '../output/text.ts';
import { buildTree, drawTree, type SandboxNode, type TreeNode } from '../output/tree.ts';

export const tree = defineCommand({
  name: 'tree',
  summary: 'show which snapshot and which sandbox came from which',
  description:
    'Shows the private and the shared memory of each sandbox, what it has written to its disk and what it shares, and what each snapshot adds on disk. A branch is below its sandbox while that sandbox exists.',
  args: [],
  options: [],
  examples: [
    { line: 'forkd tree', summary: 'as a drawing' },
    { line: 'forkd tree --json', summary: 'as nested JSON' },
  ],
  run,
});

async function run({ context }: Call<unknown>): Promise<void> {
  const client = await context.client();
  const { signal } = context;
  const [listed, sandboxes] = await Promise.all([client.listSnapshots({ signal }), client.listSandboxes({ signal })]);
  const details = await detailsOf(client, listed, signal);
  // Parents come first. The list does not name the parent of older snapshots, so it is taken from their details.
  const snapshots = listed
    .map((info) => withParent(info, details.get(info.tag)))
    .toSorted((one, other) => one.created_at_unix - other.created_at_unix);
  const nodes = buildTree({
    snapshots,
    sandboxes,
    layerBytes: new Map(
      [...details].map(([tag, detail]) => [tag, layerBytes(detail, details.get(detail.parent_tag ?? ''))]),
    ),
    stats: await statsOf(client, sandboxes, signal),
  });
  if (context.out.isJson) context.out.json(nodes);
  else for (const line of drawTree(nodes, (node) => label(context, node))) context.out.line(line);
}

function withParent(info: SnapshotInfo, detail: SnapshotInfoDetail | undefined): SnapshotInfo {
  const parent = info.parent_tag ?? detail?.parent_tag;
  return parent === undefined ? info : { ...info, parent_tag: parent };
}

/** Returns details by tag, without snapshots that are incomplete or have just been removed. */
async function detailsOf(
  client: ForkdClient,
  snapshots: readonly SnapshotInfo[],
  signal: AbortSignal,
): Promise<Map<string, SnapshotInfoDetail>> {
  const whole = snapshots.filter((info) => info.status === 'ready');
  const found = await mapSome(whole, ({ tag }) => unlessGone(client.getSnapshotDetail(tag, { signal })));
  return new Map(found.flatMap((detail) => (detail === undefined ? [] : [[detail.tag, detail]])));
}

async function statsOf(client: ForkdClient, sandboxes: readonly SandboxInfo[], signal: AbortSignal) {
  const found = await mapSome(sandboxes, async ({ id }) => {
    const stats = await unlessGone(client.sandboxStats(id, { signal }));
    return stats === undefined ? [] : [[id, stats] as const];
  });
  return new Map(found.flat());
}

async function unlessGone<Result>(asked: Promise<Result>): Promise<Result | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (isForkdError(error) && (error.status === 404 || error.status === 409)) return undefined;
    throw error;
  }
}

function label({ out: { colors } }: Context, node: TreeNode): string {
  if (node.kind === 'snapshot') {
    const size = node.layer_bytes === null ? '' : `  ${colors.dim(formatBytes(node.layer_bytes))}`;
    return `${colors.bold(node.tag)}${size}${node.status === 'ready' ? '' : `  ${colors.yellow(node.status)}`}`;
  }
  const name = node.name === null ? '' : ` (${node.name})`;
  const paused = node.state === 'paused' ? `  ${colors.yellow('paused')}` : '';
  if (node.private_bytes === null || node.shared_bytes === null) return `${colors.cyan(node.id)}${name}${paused}`;
  const memory = `${formatBytes(node.private_bytes)} private, ${formatBytes(node.shared_bytes)} shared`;
  return `${colors.cyan(node.id)}${name}  ${colors.dim(memory + diskText(node))}${paused}`;
}

function diskText({ disk_own_bytes: own, disk_shared_bytes: shared }: SandboxNode): string {
  return own === null || shared === null ? '' : `; disk ${formatBytes(own)} own, ${formatBytes(shared)} shared`;
}
