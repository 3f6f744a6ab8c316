import type { SnapshotInfo } from '@forkd/api';
import { defineCommand, type Call } from '../command.ts';
import { ellipsis, formatAge, formatBytes, formatMs } from '../output/text.ts';

const FROM_WIDTH_MAX = 40;

export const images = defineCommand({
  name: 'images',
  summary: 'list snapshots',
  args: [],
  options: [],
  examples: [
    { line: 'forkd images', summary: 'as a table' },
    { line: 'forkd images -q', summary: 'tags only' },
  ],
  run,
});

async function run({ context }: Call<Record<string, unknown>>): Promise<void> {
  const client = await context.client();
  const snapshots = await client.listSnapshots({ signal: context.signal });
  if (context.out.isJson) {
    context.out.json(snapshots);
    return;
  }
  if (context.out.isQuiet) {
    for (const snapshot of snapshots) context.out.line(snapshot.tag);
    return;
  }
  const header = ['TAG', 'STATUS', 'CREATED', 'FROM', 'PAUSE', 'CAPTURED'];
  context.out.table(header, snapshots.map(row));
  for (const snapshot of snapshots) {
    if (snapshot.error !== undefined) context.out.warn(`${snapshot.tag}: ${snapshot.error}`);
    if (snapshot.mismatch !== undefined) context.out.warn(snapshot.mismatch);
  }
}

function row(snapshot: SnapshotInfo): string[] {
  const isInMemory = snapshot.status === 'ready' && snapshot.durable === false;
  return [
    snapshot.tag,
    snapshot.mismatch === undefined ? (isInMemory ? 'ready, not on disk' : snapshot.status) : 'other machine',
    formatAge(snapshot.created_at_unix),
    ellipsis(snapshot.branched_from ?? snapshot.source ?? '-', FROM_WIDTH_MAX),
    snapshot.pause_us === undefined ? '-' : formatMs(snapshot.pause_us / 1000),
    snapshot.captured_bytes === undefined ? '-' : formatBytes(snapshot.captured_bytes),
  ];
}
