/** Wrong input of every kind that a user can give, against a real controller: each is refused with a sentence that names it. */
import { appendFile, mkdir, open, stat, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Store } from '@forkd/store';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { forkOne, makeTemplate, shell, TestController, until } from '@forkd/testing';

/** What a snapshot of another host differs in. */
const ELSEWHERE = [
  ['engine_version', '0.0.1'],
  ['machine', 'pc'],
  ['cpu_model', 'other'],
] as const;

describe('wrong input', () => {
  let controller: TestController;

  beforeAll(async () => {
    controller = await TestController.start();
    await makeTemplate(controller.client);
    await writeSnapshotsOfElsewhere(controller);
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

  it.each(ELSEWHERE)('a snapshot of another %s is refused, and the difference named', async (field, value) => {
    const refused = controller.client.createSandboxes({ snapshot_tag: `another-${field}` });
    await expect(refused).rejects.toMatchObject({
      code: 'machine_mismatch',
      message: expect.stringMatching(new RegExp(`${field}.*${value}`)),
    });
    expect(await controller.sandboxDirs()).toEqual([]);
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
      const layer = await largestLayer(own);
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

/** The store of a controller that has ended: a store has one writer at a time. */
function storeOf(controller: TestController): Promise<Store> {
  return Store.open(path.join(controller.dir, 'store'));
}

async function largestLayer(controller: TestController): Promise<string> {
  const store = await storeOf(controller);
  const { memory } = await store.readSnapshot('base');
  const [largest] = memory.toSorted((a, b) => b.size - a.size);
  if (!largest) throw new Error('the template has no memory');
  return store.blobPath(largest.digest);
}

/** Snapshots as other hosts would have written them, beside the template that they are like. */
async function writeSnapshotsOfElsewhere(controller: TestController): Promise<void> {
  await controller.stop();
  const store = await storeOf(controller);
  const base = await store.readSnapshot('base');
  for (const [field, value] of ELSEWHERE) {
    const machine = { ...base.config.machine, [field]: value };
    await store.writeSnapshot({ ...base, config: { ...base.config, tag: `another-${field}`, machine } });
  }
  await controller.serve();
}
