/** Wrong input of every kind that a user can give, against a real controller: each is refused with a sentence that names it. */
import { appendFile, mkdir, open, stat, truncate, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Store } from '@forkd/store';
import { forkOne, shell, TestController, until } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

/** Fields that differ in a snapshot of another host, and their values. */
const ELSEWHERE = [
  ['engine_version', '0.0.1'],
  ['machine', 'pc'],
  ['cpu_model', 'other'],
] as const;

describe('wrong input', () => {
  test.beforeAll(({ controller }) => writeSnapshotsOfElsewhere(controller));

  test.for([
    [{ snapshot_tag: 'no/tag' }, 400, 'no/tag'],
    [{ snapshot_tag: 'unknown' }, 404, 'unknown'],
    [{ snapshot_tag: 'base', n: 0 }, 400, 'n'],
    [{ snapshot_tag: 'base', n: 1001 }, 400, 'n'],
    [{ snapshot_tag: 'base', n: 1.5 }, 400, 'n'],
  ] as const)('fails a fork of %j with status %i', async ([request, status, named], { client, controller }) => {
    const refused = client.createSandboxes(request);
    await expect(refused).rejects.toMatchObject({ status, message: expect.stringContaining(named) });
    expect(await controller.sandboxDirs()).toEqual([]);
  });

  test('of a guest larger than the free memory is refused before a start, with the numbers', async ({
    client,
    controller,
  }) => {
    const template = client.createSnapshot({ tag: 'huge', source: 'recipe:busybox', mem_mib: 1_000_000 });
    await expect(template).rejects.toMatchObject({
      code: 'out_of_memory',
      message: expect.stringMatching(/1000000 MiB.*\d+ MiB are available/),
    });
    // The image is not looked at before that.
    const nowhere = client.createSnapshot({ tag: 'huge', source: '/nowhere', mem_mib: 1_000_000 });
    await expect(nowhere).rejects.toMatchObject({ code: 'out_of_memory' });
    await expectNoTrace(controller, 'huge');
  });

  test('of a kernel that is missing or invalid is refused by name', async ({ client, controller }) => {
    const make = (kernel: string) =>
      client.createSnapshot({ tag: 'kernel', source: 'recipe:busybox', kernel, mem_mib: 256 });
    await expect(make('/nowhere/vmlinuz')).rejects.toMatchObject({
      message: expect.stringContaining('/nowhere/vmlinuz'),
    });
    const text = join(controller.dir, 'no-kernel');
    await writeFile(text, 'not a kernel');
    await expect(make(text)).rejects.toMatchObject({ message: expect.stringContaining(text) });
    await expectNoTrace(controller, 'kernel');
  });

  test('of a broken image is refused by name, and leaves nothing', async ({ client, controller }) => {
    const make = (source: string) => client.createSnapshot({ tag: 'image', source, mem_mib: 256 });
    await expect(make('/nowhere/image')).rejects.toMatchObject({ message: expect.stringContaining('/nowhere/image') });
    const tarball = join(controller.dir, 'broken.tar');
    await writeFile(tarball, Buffer.alloc(10_000, 7));
    await expect(make(tarball)).rejects.toMatchObject({ message: expect.stringContaining(tarball) });
    const empty = join(controller.dir, 'empty');
    await mkdir(empty);
    await expect(make(empty)).rejects.toMatchObject({ message: expect.stringContaining(empty) });
    await expectNoTrace(controller, 'image');
  });

  test('of a taken tag, two branch modes or a missing sandbox is refused', async ({ client }) => {
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

  test.for(ELSEWHERE)(
    'of a snapshot with another %s is refused with the difference',
    async ([field, value], { client, controller }) => {
      const refused = client.createSandboxes({ snapshot_tag: `another-${field}` });
      await expect(refused).rejects.toMatchObject({
        code: 'machine_mismatch',
        message: expect.stringMatching(new RegExp(`${field}.*${value}`)),
        hint: expect.stringContaining(`forkd rebuild another-${field}`),
      });
      const listed = (await client.listSnapshots()).find(({ tag }) => tag === `another-${field}`);
      expect(listed?.mismatch).toMatch(value);
      expect(await controller.sandboxDirs()).toEqual([]);
    },
  );

  test('that a new controller only lists is marked with the difference', async ({ client, controller }) => {
    await controller.stop();
    await controller.serve(['--vmm-pool', '1']);
    const listed = await client.listSnapshots();
    const marked = listed.flatMap(({ tag, mismatch }) => (mismatch === undefined ? [] : [tag]));
    expect(marked.toSorted()).toEqual(ELSEWHERE.map(([field]) => `another-${field}`).toSorted());
    await controller.stop();
    await controller.serve();
  });

  test.each([
    ['flipped', async (file: string) => flipByte(file)],
    ['cut short', async (file: string) => truncate(file, (await stat(file)).size - 4096)],
    ['longer than it was', async (file: string) => appendFile(file, 'x')],
  ])('of a layer that is %s is refused by its digest', { timeout: 180_000 }, async (_what, damage) => {
    const own = await TestController.start({ template: true });
    try {
      await own.client.shutdown({ sandboxes: 'kill' });
      await until('everything has ended', 20_000, async () => (await own.processes()).length === 0);
      const layer = await largestLayer(own);
      await damage(layer);
      await own.serve();
      const refused = own.client.createSandboxes({ snapshot_tag: 'base' });
      await expect(refused).rejects.toMatchObject({ message: expect.stringContaining(basename(layer)) });
      expect(await own.sandboxDirs()).toEqual([]);
      expect(await own.pids('vmm')).toEqual([]);
    } finally {
      await own[Symbol.asyncDispose]();
    }
  });

  test('leaves the template usable', async ({ client, controller }) => {
    const id = await forkOne(client);
    expect(await shell(client, id, 'echo still here')).toBe('still here');
    await client.deleteSandbox(id);
    expect(await controller.pids('vmm')).toEqual([]);
  });

  async function expectNoTrace(controller: TestController, tag: string): Promise<void> {
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
  return Store.open(join(controller.dir, 'store'));
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
