/**
 * Proves that what is written to the store is what is read, by this process and by the next one, that tools for OCI layouts
 * can read it, and that concurrent writers lose nothing. Random snapshots; fast-check prints the seed of a failure.
 */
import { execFile } from 'node:child_process';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { expect, onTestFinished, test, vi } from 'vitest';
import { ancestorsOf, dependentsOf, descendantsOf, Store } from '../src/index.ts';
import { blobsOf } from '../src/snapshot.ts';
import { draftOf, scratch, writeSnapshot } from './support.ts';

const run = promisify(execFile);
const tagArbitrary = fc.stringMatching(/^[A-Za-z0-9_-]{1,64}$/);

const configArbitrary = fc.record({
  created_at_unix: fc.nat(),
  machine: fc.record(
    {
      engine: fc.constant('qemu'),
      engine_version: fc.string({ maxLength: 20 }),
      machine: fc.string({ maxLength: 80 }),
      accelerator: fc.constantFrom('kvm', 'tcg'),
      cpu_model: fc.string({ maxLength: 40 }),
      mem_mib: fc.integer({ min: 1, max: 1 << 20 }),
      vcpus: fc.integer({ min: 1, max: 64 }),
      processor: fc.record({
        vendor: fc.string({ maxLength: 12 }),
        family: fc.nat(0xff),
        model: fc.nat(0xff),
        stepping: fc.nat(0xf),
        flags: fc.string({ maxLength: 200 }),
        flags_digest: fc.constant(`sha256:${'0'.repeat(64)}`),
      }),
    },
    { requiredKeys: ['engine', 'engine_version', 'machine', 'accelerator', 'cpu_model', 'mem_mib', 'vcpus'] },
  ),
  image: fc.record({
    env: fc.dictionary(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'binary' }), {
      maxKeys: 5,
      noNullPrototype: true,
    }),
    workdir: fc.string(),
    user: fc.string(),
    entrypoint: fc.array(fc.string(), { maxLength: 3 }),
    cmd: fc.array(fc.string(), { maxLength: 3 }),
  }),
  source: fc.string(),
  python: fc.boolean(),
  branched_from: fc.option(fc.constant('sb-0123456789')),
  stats: fc.dictionary(fc.stringMatching(/^[a-z_]{1,20}$/), fc.integer({ min: 0, max: 2 ** 40 }), {
    maxKeys: 10,
    noNullPrototype: true,
  }),
});

test('a snapshot is read as it was written, even by another process', async () => {
  const dir = await scratch();
  const store = await Store.open(dir);
  const written = new Set<string>();
  await fc.assert(
    fc.asyncProperty(
      tagArbitrary,
      configArbitrary,
      fc.array(fc.string(), { maxLength: 20 }),
      async (tag, config, memory) => {
        fc.pre(!written.has(tag));
        written.add(tag);
        const draft = await draftOf(store, tag, memory, config);
        const snapshot = await store.writeSnapshot(draft);
        expect(snapshot).toMatchObject({ ...draft, tag });
        const other = await Store.open(dir);
        expect(await other.readSnapshot(tag)).toEqual(snapshot);
        for (const blob of blobsOf(snapshot)) await other.verify(blob.digest);
      },
    ),
    { numRuns: 60 },
  );
  expect((await store.list()).map(({ tag }) => tag).toSorted()).toEqual([...written].toSorted());
});

test('concurrent writers of one tag leave one winner, and those of many tags lose none', async () => {
  const dir = await scratch();
  const store = await Store.open(dir);
  const tags = Array.from({ length: 24 }, (_, index) => `tag-${index}`);
  const results = await Promise.allSettled([
    ...tags.map((tag) => writeSnapshot(store, tag, ['base', `layer of ${tag}`])),
    ...tags.slice(0, 8).map((tag) => writeSnapshot(store, tag, ['base', `rival of ${tag}`])),
  ]);
  const refused = results.filter((result) => result.status === 'rejected');
  expect(refused.map((result) => result.reason.code)).toEqual(Array(8).fill('snapshot_exists'));
  const reopened = await Store.open(dir);
  const listed = await reopened.list();
  expect(listed.map(({ tag }) => tag).toSorted()).toEqual(tags.toSorted());
  expect(listed.every((entry) => 'snapshot' in entry)).toBe(true);
});

test('a file is stored once by copy or link, read-only', async () => {
  const dir = await scratch();
  const store = await Store.open(join(dir, 'store'));
  const file = join(dir, 'root.erofs');
  await writeFile(file, Buffer.alloc(3_000_000, 7));
  const copied = await store.putFile(file);
  expect(copied.size).toBe(3_000_000);
  expect((await stat(store.blobPath(copied.digest))).ino).not.toBe((await stat(file)).ino);
  expect(await store.putFile(file, { link: true })).toEqual(copied);

  const other = join(dir, 'other.erofs');
  await writeFile(other, 'other');
  const linked = await store.putFile(other, { link: true });
  const found = await stat(store.blobPath(linked.digest));
  expect(found.ino).toBe((await stat(other)).ino);
  expect(found.mode & 0o222).toBe(0);
  await expect(store.putFile(join(dir, 'absent'))).rejects.toMatchObject({ code: 'io' });
});

test('the chain is followed by digest, not by tag', async () => {
  const store = await Store.open(await scratch());
  const child = async (tag: string, parent: string, keeps = true) => {
    const { manifest } = await store.readSnapshot(parent);
    const origin = { parent_tag: parent, parent_digest: manifest.digest, keeps_parent: keeps };
    return writeSnapshot(store, tag, ['base', tag], origin);
  };
  await writeSnapshot(store, 'root', ['base']);
  await child('a', 'root');
  await child('b', 'a');
  await child('c', 'a');
  await child('loose', 'a', false);
  const all = async () => (await store.list()).flatMap((entry) => ('snapshot' in entry ? [entry.snapshot] : []));
  expect(ancestorsOf('b', await all())).toEqual(['root', 'a']);
  expect(dependentsOf('a', await all())).toEqual(['b', 'c']);
  expect(descendantsOf('root', await all())).toEqual(['b', 'c', 'a']);
  expect(ancestorsOf('loose', await all())).toEqual(['root', 'a']);

  await store.remove('a');
  await writeSnapshot(store, 'a', ['unrelated']);
  expect(ancestorsOf('b', await all())).toEqual([]);
  expect(dependentsOf('a', await all())).toEqual([]);
  expect((await store.readSnapshot('b')).config.parent_tag).toBe('a');
});

test('skopeo reads the layout', async (context) => {
  const store = await Store.open(await scratch());
  const snapshot = await writeSnapshot(store, 'py', ['base', 'warm']);
  let raw: string;
  try {
    raw = (await run('skopeo', ['inspect', '--raw', `oci:${store.dir}:py`])).stdout;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT')
      return context.skip('skopeo is not installed');
    throw error;
  }
  expect(raw).toBe(await readFile(store.blobPath(snapshot.manifest.digest), 'utf8'));
});

test('a store of many snapshots is parsed only after a change', async () => {
  const store = await Store.open(await scratch());
  for (let at = 0; at < 20; at += 1) await writeSnapshot(store, `snapshot-${at}`, ['base']);
  const parse = vi.spyOn(JSON, 'parse');
  onTestFinished(() => parse.mockRestore());
  await store.list();
  const before = parse.mock.calls.length;
  for (let at = 0; at < 5; at += 1) expect((await store.list()).length).toBe(20);
  expect(parse.mock.calls.length).toBe(before);
  await store.remove('snapshot-7');
  expect((await store.list()).map(({ tag }) => tag)).not.toContain('snapshot-7');
});
