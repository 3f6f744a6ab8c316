/** Proves that the client of the disk server starts it, finds it again, and speaks its protocol. What it serves is tested in `crates/disk`. */

import { mkdir, mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DiskServer } from '../src/disk/client.ts';

const PROGRAM = join(import.meta.dirname, '../../../target/release/forkd-disk');
const SIZE_BYTES = 1 << 20;
const KEY = 'a-secret-key';

let dir: string;
let server: DiskServer;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'forkd-disk-server-'));
  await mkdir(join(dir, 'store'));
  server = await ensure();
});

afterEach(async () => {
  await (await ensure()).shutdown();
  await rm(dir, { recursive: true });
});

function ensure(): Promise<DiskServer> {
  return DiskServer.ensure({ bin: PROGRAM, runDir: join(dir, 'run'), storeDir: join(dir, 'store') });
}

/** Imports an image with a line of text in its third block. */
async function importText(text: string): Promise<string> {
  const path = join(dir, 'image');
  const file = await open(path, 'w');
  await file.truncate(SIZE_BYTES / 2);
  await file.write(text, 2 * 4096);
  await file.close();
  const { digest, size } = await server.importImage(path, SIZE_BYTES);
  expect(size).toBeLessThan(3 * 4096);
  return digest;
}

test('an image becomes a layer, a disk, a snapshot and an image again', async () => {
  const layer = await importText('written before');
  await server.open({ key: KEY, size_bytes: SIZE_BYTES, layers: [layer], pid: null });
  expect(await server.usage(KEY)).toMatchObject({ own_bytes: 0, shared_bytes: 4096, full: false });
  const sealed = await server.freeze(KEY);
  expect(sealed).toEqual({ layers: [layer], own_bytes: 0 });
  const [blob] = await server.persist(sealed.layers);
  expect(blob?.digest).toBe(layer);
  const merged = await server.merge(sealed.layers);
  expect(await server.digest([merged.digest])).toEqual(await server.digest(sealed.layers));
  await server.exportImage([merged.digest], join(dir, 'again'));
  expect((await stat(join(dir, 'again'))).size).toBe(SIZE_BYTES);
  expect((await readFile(join(dir, 'again'))).toString('utf8', 2 * 4096, 2 * 4096 + 14)).toBe('written before');
  await server.close(KEY);
  await server.drop(sealed.layers);
  expect(await server.inventory()).toEqual({ disks: [], layers: [] });
});

test('a disk survives its server and is adopted from the next one', async () => {
  const layer = await importText('written before');
  await server.open({ key: KEY, size_bytes: SIZE_BYTES, layers: null, pid: null });
  await server.bind(KEY, [layer]);
  process.kill(server.pid, 'SIGKILL');
  await server.gone;
  await expect(server.usage(KEY)).rejects.toMatchObject({ code: 'disk_server_gone' });
  const last = server.pid;
  server = await ensure();
  expect(server.pid).not.toBe(last);
  expect((await server.inventory()).disks).toMatchObject([{ key: KEY, open: false, bound: true }]);
  const { epoch } = await server.open({ key: KEY, size_bytes: SIZE_BYTES, layers: null, pid: null });
  expect(epoch).toBe(2 ** 32);
  await expect(server.seal(KEY, 1)).rejects.toMatchObject({ code: 'bad_request' });
  expect((await server.seal(KEY, epoch)).layers).toEqual([layer]);
});

test('one server serves all that ask at the same time', async () => {
  await server.shutdown();
  const servers = await Promise.all([ensure(), ensure(), ensure()]);
  expect(new Set(servers.map(({ pid }) => pid)).size).toBe(1);
  for (const one of servers) one.disconnect();
});

test('a program that is none fails with its reason', async () => {
  const options = { bin: '/bin/false', runDir: join(dir, 'other'), storeDir: join(dir, 'store') };
  await expect(DiskServer.ensure(options)).rejects.toMatchObject({ code: 'disk_server_missing' });
});
