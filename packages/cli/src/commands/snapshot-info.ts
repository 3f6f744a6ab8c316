import { defineCommand, type Call } from '../command.ts';
import { resolveSnapshot } from '../lib/resolve.ts';
import { formatAge, formatBytes } from '../lib/text.ts';

export const snapshotInfo = defineCommand({
  name: 'snapshot-info',
  summary: 'what a snapshot is made of, and what was made from it',
  args: [{ name: 'tag', summary: 'tag, or a beginning of it', completes: 'snapshot' }],
  options: [],
  examples: [
    { line: 'forkd snapshot-info py', summary: 'in lines' },
    { line: 'forkd snapshot-info py --json', summary: 'as the API answers' },
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
    'device state': formatBytes(detail.vmstate_bytes),
    'chain depth': String(detail.chain_depth),
    parent: detail.parent_tag,
    'parent content': detail.parent_content_hash,
    ancestors: listed(detail.ancestors),
    dependents: listed(detail.dependents),
  });
}

function listed(tags: readonly string[]): string | undefined {
  return tags.length === 0 ? undefined : tags.join(' ');
}
