/**
 * Proves that garbage collection never removes a blob that a snapshot or a digest in use refers to, removes all others, waits
 * for writers, and refuses when it cannot know. Random histories; fast-check prints the seed of a failure.
 */
import { readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Digest, Store } from '../src/index.ts';
import { blobsOf } from '../src/snapshot.ts';
import { scratch, writeSnapshot } from './support.ts';

const nothing = () => new Set<Digest>();
const present = async (store: Store) =>
  (await readdir(join(store.dir, 'blobs', 'sha256'))).map((hex) => `sha256:${hex}`);

type Step =
  | { kind: 'write'; tag: number; layers: number[] }
  | { kind: 'remove'; tag: number }
  | { kind: 'stray'; text: number }
  | { kind: 'gc' };
const small = fc.integer({ min: 0, max: 5 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant('write' as const), tag: small, layers: fc.array(small, { maxLength: 4 }) }),
  fc.record({ kind: fc.constant('remove' as const), tag: small }),
  fc.record({ kind: fc.constant('stray' as const), text: small }),
  fc.constant({ kind: 'gc' as const }),
);

test('collection leaves exactly the referenced blobs after any history', async () => {
  const dir = await scratch();
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), fc.nat(), async (steps, unique) => {
      const store = await Store.open(join(dir, `${unique}-${Math.random()}`));
      const used = (await store.putBytes(Buffer.from('a running sandbox maps this'))).digest;
      for (const { kind, ...values } of steps) {
        const tag = `t${'tag' in values ? values.tag : ''}`;
        const exists = (await store.list()).some((entry) => entry.tag === tag);
        if (kind === 'write' && !exists && 'layers' in values)
          await writeSnapshot(store, tag, values.layers.map(String));
        if (kind === 'remove' && exists) await store.remove(tag);
        if (kind === 'stray' && 'text' in values) await store.putBytes(Buffer.from(`stray ${values.text}`));
        if (kind === 'gc') await store.gc({ inUse: () => new Set([used]) });
      }
      await store.gc({ inUse: () => new Set([used]) });
      const kept = new Set<string>([used]);
      for (const entry of await store.list()) {
        if (!('snapshot' in entry)) throw entry.error;
        for (const blob of blobsOf(entry.snapshot)) kept.add(blob.digest);
      }
      expect((await present(store)).toSorted()).toEqual([...kept].toSorted());
      expect(await store.gc({ inUse: () => new Set([used]) })).toBe(0);
      await rm(store.dir, { recursive: true });
    }),
    { numRuns: 40 },
  );
});

test('collection waits for a writer, and counts what it freed', async () => {
  const store = await Store.open(await scratch());
  const endWrite = await store.beginWrite();
  await store.putBytes(Buffer.alloc(5000));
  let done = false;
  const collected = store.gc({ inUse: nothing }).finally(() => {
    done = true;
  });
  // A writer that comes later does not wait for the collection that waits.
  const endSecond = await store.beginWrite();
  const snapshot = await writeSnapshot(store, 'kept', ['layer']);
  endWrite();
  endWrite();
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(done).toBe(false);
  endSecond();
  expect(await collected).toBe(5000);
  for (const blob of blobsOf(snapshot)) await store.verify(blob.digest);
});

test('collection that waits can be aborted', async () => {
  const store = await Store.open(await scratch());
  const endWrite = await store.beginWrite();
  const signal = AbortSignal.timeout(20);
  await expect(store.gc({ inUse: nothing, signal })).rejects.toBeDefined();
  endWrite();
  expect(await store.gc({ inUse: nothing })).toBe(0);
});

test('collection is refused while a manifest cannot be read', async () => {
  const dir = await scratch();
  const store = await Store.open(dir);
  const { manifest } = await writeSnapshot(store, 'broken', ['precious']);
  await rm(store.blobPath(manifest.digest));
  const reopened = await Store.open(dir);
  const before = await present(reopened);
  await expect(reopened.gc({ inUse: nothing })).rejects.toMatchObject({ code: 'corrupt_manifest' });
  expect(await present(reopened)).toEqual(before);
  await reopened.remove('broken');
  await reopened.gc({ inUse: nothing });
  expect(await present(reopened)).toEqual([]);
});

test('collection removes leftovers of dead writers, all at the start and old ones later', async () => {
  const dir = await scratch();
  const store = await Store.open(dir);
  const ingest = join(dir, 'ingest');
  await writeFile(join(ingest, 'fresh'), 'fresh');
  await writeFile(join(ingest, 'old'), 'old');
  const past = new Date(Date.now() - 2 * 60 * 60 * 1000);
  await utimes(join(ingest, 'old'), past, past);
  await store.gc({ inUse: nothing });
  expect(await readdir(ingest)).toEqual(['fresh']);
  await Store.open(dir);
  expect(await readdir(ingest)).toEqual([]);
});
