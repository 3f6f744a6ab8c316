/** Proves that what the files of a test run share is built once, however many need it, and again after a failure. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { builtOnce, copyStore } from '../src/shared.ts';

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp('/tmp/fk-shared-test-');
});

afterEach(() => rm(dir, { recursive: true }));

test('a directory that many need at once is built once', async () => {
  let builds = 0;
  const build = async (draft: string): Promise<void> => {
    builds += 1;
    await writeFile(join(draft, 'file'), 'built');
  };
  const all = await Promise.all(Array.from({ length: 5 }, () => builtOnce(join(dir, 'made'), build)));
  expect(new Set(all)).toEqual(new Set([join(dir, 'made')]));
  expect(builds).toBe(1);
  expect(await readdir(dir)).toEqual(['made']);
  expect(await readFile(join(dir, 'made/file'), 'utf8')).toBe('built');
});

test('a build that fails leaves nothing, and the next caller builds again', async () => {
  const made = join(dir, 'made');
  await expect(builtOnce(made, () => Promise.reject(new Error('no room')))).rejects.toThrow('no room');
  expect(await readdir(dir)).toEqual([]);
  await builtOnce(made, (draft) => writeFile(join(draft, 'file'), ''));
  expect(await readdir(made)).toEqual(['file']);
});

test('the copy of a store has its blobs and its index, and nothing of its writers', async () => {
  const [from, to] = [join(dir, 'from'), join(dir, 'to')];
  for (const name of ['blobs/sha256', 'ingest', 'pagers']) await mkdir(join(from, name), { recursive: true });
  for (const name of ['blobs/sha256/aa', 'ingest/half', 'index.json', 'oci-layout', '.reserve']) {
    await writeFile(join(from, name), name);
  }
  await copyStore(from, to);
  expect((await readdir(to)).toSorted()).toEqual(['blobs', 'index.json', 'oci-layout']);
  expect(await readFile(join(to, 'blobs/sha256/aa'), 'utf8')).toBe('blobs/sha256/aa');
});
