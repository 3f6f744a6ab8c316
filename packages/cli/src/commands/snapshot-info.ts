import type { SnapshotInfoDetail } from '@forkd/api';
import { defineCommand, type Call } from '../command.ts';
import { formatAge, formatBytes } from '../output/text.ts';
import { resolveSnapshot } from '../parse/resolve.ts';

export const snapshotInfo = defineCommand({
  name: 'snapshot-info',
  summary: 'show the sizes, ancestors and dependents of a snapshot',
  args: [{ name: 'tag', summary: 'tag, or the beginning of it', completes: 'snapshot' }],
  options: [],
  examples: [
    { line: 'forkd snapshot-info py', summary: 'for a person' },
    { line: 'forkd snapshot-info py --json', summary: 'for a program' },
  ],
  run,
});

async function run({ context, args }: Call<unknown>): Promise<void> {
  const client = await context.client();
  const tag = await resolveSnapshot(client, args[0] ?? '', context);
  const detail = await client.getSnapshotDetail(tag, { signal: context.signal });
  if (context.out.isJson) {
    context.out.json(detail);
    return;
  }
  context.out.fields({
    tag: detail.tag,
    directory: detail.dir,
    created: detail.created_at_unix === undefined ? undefined : formatAge(detail.created_at_unix),
    memory: formatBytes(detail.memory_logical_bytes),
    'on disk': `${formatBytes(detail.memory_physical_bytes)} in all its layers`,
    'disk layers': detail.disk_physical_bytes === undefined ? undefined : formatBytes(detail.disk_physical_bytes),
    'device state': formatBytes(detail.vmstate_bytes),
    'random numbers': randomOf(detail),
    'chain depth': String(detail.chain_depth),
    parent: detail.parent_tag,
    'parent content': detail.parent_content_hash,
    ancestors: listed(detail.ancestors),
    dependents: listed(detail.dependents),
  });
}

function randomOf({ random_numbers: random, warning }: SnapshotInfoDetail): string | undefined {
  if (random === undefined) return undefined;
  return random === 'from_start' ? "a child's own from its first instruction on" : (warning ?? random);
}

function listed(tags: readonly string[]): string | undefined {
  return tags.length === 0 ? undefined : tags.join(' ');
}
