/**
 * Proves that a damaged or foreign store is refused with an error that names what is wrong, that a file torn or flipped at any
 * byte is never read as something else, and that a full file system is an error with its own code.
 */
import { execFile } from 'node:child_process';
import { chmod, mkdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { removeTree, Store, StoreError } from '../src/index.ts';
import { parseConfig, parseManifest } from '../src/manifest.ts';
import { scratch, writeSnapshot } from './support.ts';

const run = promisify(execFile);

test('an index that is torn or flipped is refused or reads as a valid one, never as nonsense', async () => {
  const dir = await scratch();
  const store = await Store.open(dir);
  await writeSnapshot(store, 'first', ['base']);
  await writeSnapshot(store, 'second', ['base', 'more']);
  const path = join(dir, 'index.json');
  const good = await readFile(path);
  await fc.assert(
    fc.asyncProperty(
      fc.nat(good.length - 1),
      fc.integer({ min: 1, max: 255 }),
      fc.boolean(),
      async (at, flip, tear) => {
        const bad = tear ? good.subarray(0, at) : Buffer.from(good);
        if (!tear) bad.writeUInt8(bad.readUInt8(at) ^ flip, at);
        await writeFile(path, bad);
        try {
          for (const entry of await store.list()) {
            if ('snapshot' in entry) expect(entry.snapshot.tag).toBe(entry.snapshot.config.tag);
            else expect(entry.error.code).toBe('corrupt_manifest');
          }
        } catch (error) {
          expect(error).toMatchObject({ code: 'corrupt_index', message: expect.stringContaining('index.json') });
        }
      },
    ),
    { numRuns: 150 },
  );
});

test('a torn or flipped manifest or config is refused by digest, with its tag', async () => {
  const dir = await scratch();
  const store = await Store.open(dir);
  const snapshot = await writeSnapshot(store, 'mine', ['base']);
  await writeSnapshot(store, 'other', ['base']);
  for (const blob of [snapshot.manifest, snapshot.configBlob]) {
    const path = store.blobPath(blob.digest);
    const good = await readFile(path);
    await chmod(path, 0o600);
    for (const at of [0, 10, good.length - 1]) {
      const bad = Buffer.from(good);
      bad.writeUInt8(bad.readUInt8(at) ^ 1, at);
      await writeFile(path, bad);
      await expect((await Store.open(dir)).readSnapshot('mine')).rejects.toMatchObject({
        code: 'corrupt_manifest',
        message: expect.stringContaining("'mine'"),
      });
      await truncate(path, at);
      const listed = await (await Store.open(dir)).list();
      expect(listed.map((entry) => ('error' in entry ? entry.error.code : entry.tag))).toEqual([
        'corrupt_manifest',
        'other',
      ]);
    }
    await writeFile(path, good);
  }
  expect((await (await Store.open(dir)).readSnapshot('mine')).tag).toBe('mine');
});

test('verify finds a flipped or truncated blob, even if it changed after an earlier check', async () => {
  const store = await Store.open(await scratch());
  const blob = await store.putBytes(Buffer.from('layer'));
  await store.verifyOnce(blob.digest);
  const path = store.blobPath(blob.digest);
  await chmod(path, 0o600);
  await writeFile(path, 'liver');
  const refusal = { code: 'corrupt_blob', message: expect.stringContaining(blob.digest) };
  await expect(store.verify(blob.digest)).rejects.toMatchObject(refusal);
  await expect(store.verifyOnce(blob.digest)).rejects.toMatchObject(refusal);
  await truncate(path, 2);
  await expect(store.check(blob)).rejects.toMatchObject(refusal);
  // Putting it again heals what a crash truncated.
  await store.putBytes(Buffer.from('layer'));
  await store.verify(blob.digest);
  await expect(store.verify(`sha256:${'0'.repeat(64)}`)).rejects.toMatchObject({ code: 'unknown_blob' });
});

test('callers at the same time share one verification, and one that gives up does not end it', async () => {
  const store = await Store.open(await scratch());
  // Large enough that the file is not read in one piece.
  const blob = await store.putBytes(Buffer.alloc(32 * 2 ** 20, 'layer'));
  // A store that has just been opened has verified nothing.
  const again = await Store.open(store.dir);
  const abort = new AbortController();
  const leaving = again.verifyOnce(blob.digest, abort.signal);
  const staying = again.verifyOnce(blob.digest);
  abort.abort(new Error('the caller left'));
  await expect(leaving).rejects.toThrow('the caller left');
  await staying;
  // Once all have left, the next caller starts anew.
  const other = await Store.open(store.dir);
  const alone = new AbortController();
  const only = other.verifyOnce(blob.digest, alone.signal);
  alone.abort(new Error('nobody waits'));
  await expect(only).rejects.toThrow('nobody waits');
  await other.verifyOnce(blob.digest);
});

test('each wrong field of a manifest or config is named with the tag', async () => {
  const store = await Store.open(await scratch());
  const snapshot = await writeSnapshot(store, 'py', ['base']);
  const manifest = JSON.parse(await readFile(store.blobPath(snapshot.manifest.digest), 'utf8'));
  const config = JSON.parse(await readFile(store.blobPath(snapshot.configBlob.digest), 'utf8'));
  const parsed = parseManifest('py', Buffer.from(JSON.stringify(manifest)));
  const manifestCases: [unknown, string][] = [
    [{ ...manifest, schemaVersion: 3 }, 'manifest.schemaVersion must be 2, it is 3'],
    [{ ...manifest, config: { ...manifest.config, size: 1e9 } }, 'manifest.config.size must be an integer'],
    [{ ...manifest, layers: [] }, 'manifest.layers has no device state'],
    [{ ...manifest, layers: manifest.layers.toReversed() }, 'manifest.layers[0].mediaType'],
    [{ ...manifest, layers: [{ ...manifest.layers[0], digest: 'sha256:../../etc' }] }, 'manifest.layers[0].digest'],
    [[], 'manifest must be an object'],
  ];
  for (const [value, message] of manifestCases) {
    const parse = () => parseManifest('py', Buffer.from(JSON.stringify(value)));
    expect(parse).toThrowError(expect.objectContaining({ code: 'corrupt_manifest' }));
    expect(parse).toThrow(`Snapshot 'py': ${message}`);
  }
  const configCases: [unknown, string][] = [
    [{ ...config, machine: { ...config.machine, mem_mib: '256' } }, 'config.machine.mem_mib must be an integer of'],
    [{ ...config, tag: 'another' }, "config.tag is 'another', the index calls it 'py'"],
    [{ ...config, image: { ...config.image, env: { A: 1 } } }, 'config.image.env.A must be a string'],
    [{ ...config, stats: { pause_us: null } }, 'config.stats.pause_us must be a number'],
    [{ ...config, parent_digest: 'x' }, 'config.parent_digest is not a sha256 digest'],
    [{ ...config, python: undefined }, 'config.python must be true or false, it is missing'],
  ];
  for (const [value, message] of configCases) {
    const parse = () => parseConfig('py', snapshot.manifest, parsed, Buffer.from(JSON.stringify(value)));
    expect(parse).toThrow(`Snapshot 'py': ${message}`);
  }
  const newer = Buffer.from(JSON.stringify({ ...config, format: 2 }));
  expect(() => parseConfig('py', snapshot.manifest, parsed, newer)).toThrowError(
    expect.objectContaining({ code: 'unsupported_format', message: "Snapshot 'py' has format 2, this forkd reads 1." }),
  );
});

test('a layout of another version or another program is not touched', async () => {
  const dir = await scratch();
  await writeFile(join(dir, 'oci-layout'), '{"imageLayoutVersion":"2.0.0"}');
  await expect(Store.open(dir)).rejects.toMatchObject({ code: 'unsupported_format' });
  const foreign = await scratch();
  await writeFile(join(foreign, 'index.json'), '{}');
  await expect(Store.open(foreign)).rejects.toMatchObject({ code: 'unsupported_format' });
});

test('a snapshot with missing blobs is refused', async () => {
  const store = await Store.open(await scratch());
  const { memory, deviceState, rootDisk, disk, config } = await writeSnapshot(store, 'one', ['base']);
  const absent = { digest: `sha256:${'1'.repeat(64)}` as const, size: 1 };
  const draft = { memory: [...memory, absent], deviceState, rootDisk, disk, config: { ...config, tag: 'two' } };
  await expect(store.writeSnapshot(draft)).rejects.toMatchObject({ code: 'unknown_blob' });
  await expect(store.readSnapshot('two')).rejects.toMatchObject({ code: 'unknown_snapshot' });
  await expect(store.remove('one', 'two')).rejects.toMatchObject({ code: 'unknown_snapshot' });
  expect(await store.list()).toHaveLength(1);
});

test('a full file system fails with disk_full, and existing snapshots stay', async (context) => {
  if (process.getuid?.() !== 0) return context.skip('mounting a small tmpfs needs root');
  const dir = await scratch();
  await run('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'forkd-store-test', dir]);
  onTestFinished(() => run('umount', [dir]).then(() => undefined));
  const store = await Store.open(join(dir, 'store'));
  await writeSnapshot(store, 'small', ['base']);
  await expect(store.putBytes(Buffer.alloc(4 * 1024 * 1024, 1))).rejects.toMatchObject({ code: 'disk_full' });
  let filled = 0;
  const fill = async () => {
    for (; ; filled += 1) await writeSnapshot(store, `fill-${filled}`, [`${filled}`.repeat(20_000)]);
  };
  await expect(fill()).rejects.toMatchObject({ code: 'disk_full', message: expect.stringContaining('full') });
  const reopened = await Store.open(join(dir, 'store'));
  const listed = await reopened.list();
  expect(listed.every((entry) => 'snapshot' in entry)).toBe(true);
  expect(listed).toHaveLength(filled + 1);
  // Space can be freed even though writing an index without the snapshot needs some.
  await reopened.remove(...listed.slice(1).map(({ tag }) => tag));
  expect(await reopened.gc({ inUse: () => new Set() })).toBeGreaterThan(20_000 * filled);
  await writeSnapshot(reopened, 'again', ['base']);
});

test('a recursive removal outside its root is refused', async () => {
  const root = await scratch();
  const outside = await scratch();
  await mkdir(join(root, 'a', 'b'), { recursive: true });
  await symlink(outside, join(root, 'link'));
  await mkdir(join(outside, 'precious'));
  for (const path of [root, join(root, '..'), outside, join(root, 'link', 'precious'), `${root}-sibling`, '/']) {
    await expect(removeTree(root, path)).rejects.toBeInstanceOf(StoreError);
  }
  await removeTree(root, join(root, 'a'));
  await removeTree(root, join(root, 'link'));
  await removeTree(root, join(root, 'absent', 'deeper'));
  expect(await readFile(join(outside, 'precious')).catch((error: NodeJS.ErrnoException) => error.code)).toBe('EISDIR');
});

test('a blob with wrong bytes is replaced when the right ones are written', async () => {
  const dir = await scratch();
  const store = await Store.open(join(dir, 'store'));
  const file = join(dir, 'file');
  await writeFile(file, 'the right bytes');
  const blob = await store.putFile(file);
  const path = store.blobPath(blob.digest);
  await chmod(path, 0o600);
  await writeFile(path, 'the wrong bytes');
  const next = await Store.open(join(dir, 'store'));
  expect(await next.putFile(file)).toEqual(blob);
  expect(await readFile(path, 'utf8')).toBe('the right bytes');
  await next.verify(blob.digest);
  await rm(path);
  await writeFile(path, 'the wrong bytes');
  expect(await next.putBytes(Buffer.from('the right bytes'))).toEqual(blob);
  expect(await readFile(path, 'utf8')).toBe('the right bytes');
});
