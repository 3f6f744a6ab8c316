/** Wrong input of every kind that a user can give, against a real controller: each is refused with a sentence that names it. */
import { appendFile, mkdir, open, readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { forkOne, makeTemplate, shell, TestController, until } from '@forkd/testing';

describe('wrong input', () => {
  let controller: TestController;

  beforeAll(async () => {
    controller = await TestController.start();
    await makeTemplate(controller.client);
  });

  afterAll(async () => {
    await controller?.[Symbol.asyncDispose]();
  });

  it.each([
    [{ snapshot_tag: 'no/tag' }, 400, 'no/tag'],
    [{ snapshot_tag: 'unknown' }, 404, 'unknown'],
    [{ snapshot_tag: 'base', n: 0 }, 400, 'n'],
    [{ snapshot_tag: 'base', n: 1001 }, 400, 'n'],
    [{ snapshot_tag: 'base', n: 1.5 }, 400, 'n'],
  ])('fork %j is refused with %i', async (request, status, named) => {
    const refused = controller.client.createSandboxes(request);
    await expect(refused).rejects.toMatchObject({ status, message: expect.stringContaining(named) });
    expect(await controller.sandboxDirs()).toEqual([]);
  });

  it('a guest that the host has no memory for is refused before it is started, with the numbers', async () => {
    const template = controller.client.createSnapshot({ tag: 'huge', source: 'recipe:busybox', mem_mib: 1_000_000 });
    await expect(template).rejects.toMatchObject({
      code: 'out_of_memory',
      message: expect.stringMatching(/1000000 MiB.*\d+ MiB are available/),
    });
    await expectNoTrace('huge');
  });

  it('a kernel that is missing, or none, is named', async () => {
    const make = (kernel: string) =>
      controller.client.createSnapshot({ tag: 'kernel', source: 'recipe:busybox', kernel, mem_mib: 256 });
    await expect(make('/nowhere/vmlinuz')).rejects.toMatchObject({
      message: expect.stringContaining('/nowhere/vmlinuz'),
    });
    const text = path.join(controller.dir, 'no-kernel');
    await writeFile(text, 'not a kernel');
    await expect(make(text)).rejects.toMatchObject({ message: expect.stringContaining(text) });
    await expectNoTrace('kernel');
  });

  it('an image that is broken is named, and nothing of it stays', async () => {
    const make = (source: string) => controller.client.createSnapshot({ tag: 'image', source, mem_mib: 256 });
    await expect(make('/nowhere/image')).rejects.toMatchObject({ message: expect.stringContaining('/nowhere/image') });
    const tarball = path.join(controller.dir, 'broken.tar');
    await writeFile(tarball, Buffer.alloc(10_000, 7));
    await expect(make(tarball)).rejects.toMatchObject({ message: expect.stringContaining(tarball) });
    const empty = path.join(controller.dir, 'empty');
    await mkdir(empty);
    await expect(make(empty)).rejects.toMatchObject({ message: expect.stringContaining(empty) });
    await expectNoTrace('image');
  });

  it('a tag that is taken, a branch of two modes, and a sandbox that is not there', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    await expect(client.branch(id, { tag: 'base' })).rejects.toMatchObject({ status: 409 });
    await expect(client.branch(id, { mode: 'live', diff: true })).rejects.toMatchObject({ status: 400 });
    await expect(client.branch(id, { diff: true, live: true })).rejects.toMatchObject({ status: 400 });
    await expect(client.branch(id, { mode: 'diff', wait: false })).rejects.toMatchObject({ status: 400 });
    await expect(client.branch('sb-0000000000', {})).rejects.toMatchObject({ status: 404 });
    await expect(client.exec(id, { args: [] })).rejects.toMatchObject({ status: 400 });
    await expect(client.deleteSandbox('sb-0000000000')).rejects.toMatchObject({ status: 404 });
    await client.deleteSandbox(id);
  });

  it.each([
    ['engine_version', '0.0.1'],
    ['machine', 'pc'],
    ['cpu_model', 'other'],
  ])('a snapshot of another %s is refused, and the difference named', async (field, value) => {
    const { client } = controller;
    const restore = await editConfig(controller, (config) => {
      config.machine[field] = value;
    });
    const refused = client.createSandboxes({ snapshot_tag: 'base' });
    await expect(refused).rejects.toMatchObject({
      code: 'machine_mismatch',
      message: expect.stringMatching(new RegExp(`${field}.*${value}`)),
    });
    await restore();
    await client.deleteSandbox(await forkOne(client));
  });

  it.each([
    ['flipped', async (file: string) => flipByte(file)],
    ['cut short', async (file: string) => truncate(file, (await stat(file)).size - 4096)],
    ['longer than it was', async (file: string) => appendFile(file, 'x')],
  ])('a layer that is %s is refused by its digest', { timeout: 180_000 }, async (_what, damage) => {
    const own = await TestController.start();
    try {
      await makeTemplate(own.client);
      await own.client.shutdown({ sandboxes: 'kill' });
      await until('everything has ended', 20_000, async () => (await own.processes()).length === 0);
      const layer = await largestBlob(own, 'application/vnd.forkd.memory.layer.v1');
      await damage(layer);
      await own.serve();
      const refused = own.client.createSandboxes({ snapshot_tag: 'base' });
      await expect(refused).rejects.toMatchObject({ message: expect.stringContaining(path.basename(layer)) });
      expect(await own.sandboxDirs()).toEqual([]);
      expect(await own.pids('vmm')).toEqual([]);
    } finally {
      await own[Symbol.asyncDispose]();
    }
  });

  it('after all of that the template still works', async () => {
    const id = await forkOne(controller.client);
    expect(await shell(controller.client, id, 'echo still here')).toBe('still here');
    await controller.client.deleteSandbox(id);
    expect(await controller.pids('vmm')).toEqual([]);
  });

  async function expectNoTrace(tag: string): Promise<void> {
    const found = (await controller.client.listSnapshots()).filter((snapshot) => snapshot.tag === tag);
    for (const snapshot of found) {
      expect(snapshot.status).toBe('failed');
      await controller.client.deleteSnapshot(tag);
    }
    expect(await controller.pids('vmm')).toEqual([]);
    expect(await controller.sandboxDirs()).toEqual([]);
    expect(await controller.ingested()).toEqual([]);
  }
});

async function flipByte(file: string): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    const at = (await handle.stat()).size - 100;
    const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, at);
    buffer.writeUInt8(buffer.readUInt8(0) ^ 1, 0);
    await handle.write(buffer, 0, 1, at);
  } finally {
    await handle.close();
  }
}

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
}

function blobPath(controller: TestController, digest: string): string {
  return path.join(controller.dir, 'store/blobs/sha256', digest.replace('sha256:', ''));
}

async function readJson<T>(file: string): Promise<T> {
  return JSON.parse(await readFile(file, 'utf8')) as T;
}

async function largestBlob(controller: TestController, mediaType: string): Promise<string> {
  const index = await readJson<{ manifests: Descriptor[] }>(path.join(controller.dir, 'store/index.json'));
  const manifests = await Promise.all(
    index.manifests.map(({ digest }) => readJson<{ layers: Descriptor[] }>(blobPath(controller, digest))),
  );
  const layers = manifests.flatMap((manifest) => manifest.layers).filter((layer) => layer.mediaType === mediaType);
  const [largest] = layers.toSorted((a, b) => b.size - a.size);
  if (!largest)
    throw new Error(`no blob of ${mediaType} among ${(await readdir(path.join(controller.dir, 'store'))).join()}`);
  return blobPath(controller, largest.digest);
}

/** Changes a snapshot's config as another host would have written it, digests and all; returns what undoes it. */
async function editConfig(
  controller: TestController,
  change: (config: { machine: Record<string, unknown> }) => void,
): Promise<() => Promise<void>> {
  const { createHash } = await import('node:crypto');
  const indexFile = path.join(controller.dir, 'store/index.json');
  const before = await readFile(indexFile, 'utf8');
  const put = async (document: unknown): Promise<{ digest: string; size: number }> => {
    const text = JSON.stringify(document);
    const digest = `sha256:${createHash('sha256').update(text).digest('hex')}`;
    await writeFile(blobPath(controller, digest), text);
    return { digest, size: Buffer.byteLength(text) };
  };
  const index = JSON.parse(before) as { manifests: Descriptor[] };
  const [entry] = index.manifests;
  if (!entry) throw new Error('the store is empty');
  const manifest = await readJson<{ config: Descriptor }>(blobPath(controller, entry.digest));
  const config = await readJson<{ machine: Record<string, unknown> }>(blobPath(controller, manifest.config.digest));
  change(config);
  Object.assign(manifest.config, await put(config));
  Object.assign(entry, await put(manifest));
  await writeFile(indexFile, JSON.stringify(index));
  return () => writeFile(indexFile, before);
}
