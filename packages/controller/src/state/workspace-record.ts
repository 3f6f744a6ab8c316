import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Nullable } from '@forkd/api';
import { writeFileAtomic } from '@forkd/store';
import { Type, type Static } from 'typebox';
import { Compile } from 'typebox/compile';
import { readRecordFile } from './record-file.ts';

/** The record of a workspace: `workspaces/<name>.json`. */
export const WorkspaceRecord = Type.Object({
  format: Type.Literal(1),
  id: Type.String(),
  name: Type.String(),
  source_snapshot_tag: Type.String(),
  /** The snapshot of the last suspension. */
  state_tag: Nullable(Type.String()),
  /** The number of suspensions so far. Each suspension has a tag of its own. */
  suspensions: Type.Integer({ minimum: 0 }),
  /** True if the workspace is meant to have a live sandbox. The sandbox itself names its workspace. */
  is_running: Type.Boolean(),
  created_at_unix: Type.Integer({ minimum: 0 }),
  last_active_unix: Type.Integer({ minimum: 0 }),
  memory_limit_mib: Nullable(Type.Integer({ minimum: 1 })),
  per_child_netns: Type.Boolean(),
  labels: Type.Record(Type.String(), Type.String()),
});
export type WorkspaceRecord = Static<typeof WorkspaceRecord>;

const validator = Compile(WorkspaceRecord);
const SUFFIX = '.json';

export function recordPath(dir: string, name: string): string {
  return join(dir, `${name}${SUFFIX}`);
}

export async function writeRecord(dir: string, record: WorkspaceRecord): Promise<void> {
  await writeFileAtomic(recordPath(dir, record.name), `${JSON.stringify(record, null, 2)}\n`);
}

/** The records that can be read, and the names of the files that cannot. */
export async function readRecords(dir: string): Promise<{ records: WorkspaceRecord[]; unreadable: string[] }> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const records: WorkspaceRecord[] = [];
  const unreadable: string[] = [];
  // A crash may have left a temporary file, which starts with a dot.
  for (const file of (await readdir(dir)).filter((name) => name.endsWith(SUFFIX) && !name.startsWith('.'))) {
    const record = await readRecordFile(join(dir, file), validator);
    if (record !== null && file === `${record.name}${SUFFIX}`) records.push(record);
    else unreadable.push(file);
  }
  return { records, unreadable };
}
