// Proves: a sandbox's record of format 1, as versions before wrote it, is read as one of format 2 that says the same; one of
// a format that nobody knows yet, a torn one and another's are not taken for ours.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readRecords, writeRecord } from '../src/state/sandbox-record.ts';
import { image, machine, scratch } from './support.ts';

const digest = `sha256:${'a'.repeat(64)}`;

const formatOne = {
  format: 1,
  id: 'sb-0123456789',
  kind: 'sandbox',
  state: 'running',
  snapshot_tag: 'base',
  snapshot_digest: digest,
  root_disk: { digest, size: 4096 },
  image,
  source: 'recipe:busybox',
  python: false,
  created_at_unix: 1_700_000_000,
  branch_count: 3,
  last_branch_memory_path: null,
  fork_ms: 12.5,
  ready_ms: 80,
  vm: { id: 'sb-0123456789', dir: '/d', pid: 7, startTicks: 9, machine, stack: [digest] },
};

async function read(contents: string) {
  const root = await scratch();
  await mkdir(join(root, formatOne.id));
  await writeFile(join(root, formatOne.id, 'sandbox.json'), contents);
  const [found] = await readRecords(root);
  return { root, record: found?.record ?? null };
}

test('a record of format 1 keeps all that it says', async () => {
  const { root, record } = await read(JSON.stringify(formatOne));
  expect(record).toEqual({
    ...formatOne,
    format: 2,
    name: null,
    labels: {},
    expires_at_unix: null,
    on_expire: 'kill',
    paused: false,
    workspace: null,
    request_key: null,
    warnings: [],
  });
  if (record === null) throw new Error('it was read');
  await writeRecord(join(root, formatOne.id), record);
  expect((await readRecords(root))[0]?.record).toEqual(record);
});

test.each([
  ['of a format to come', JSON.stringify({ ...formatOne, format: 3 })],
  ['torn', JSON.stringify(formatOne).slice(0, 200)],
  ['of another sandbox', JSON.stringify({ ...formatOne, id: 'sb-9876543210' })],
  ['not an object', '[]'],
  ['empty', ''],
])('one that is %s is not taken for ours', async (_what, contents) => {
  expect((await read(contents)).record).toBeNull();
});
