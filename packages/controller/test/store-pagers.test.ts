// Proves that a store is not swept of what a living pager writes: real pagers, whose half-written files stay when a controller
// opens the store and when another pager starts, and go once the pager is dead; and that nothing goes from a store while the
// pager of another data directory lives.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Store } from '@forkd/store';
import type { Logger } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { locateBinaries } from '../src/binaries.ts';
import { StorePagers } from '../src/process/pagers.ts';
import { Housekeeping } from '../src/state/housekeeping.ts';
import { Pins } from '../src/state/pins.ts';
import { scratch, silent } from './support.ts';

const { pager, jail } = locateBinaries();

/** A pager of a data directory, once it serves. Returns how to kill it. */
async function startPager(run: string, store: string): Promise<() => Promise<void>> {
  await mkdir(run, { recursive: true });
  const child = spawn(pager, ['--run-dir', run, '--store-dir', store], { stdio: 'ignore' });
  const ended = once(child, 'exit');
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await ended;
  };
  onTestFinished(kill);
  await expect.poll(() => stat(join(run, 'pager.sock')).then(() => true), { timeout: 20_000 }).toBe(true);
  return kill;
}

/** Opens a store as the controller of a data directory does. */
async function openStore(store: string, run: string): Promise<{ store: Store; pagers: StorePagers }> {
  const pagers = await StorePagers.of(jail, { store, run });
  return { store: await Store.open(store, { pagerLives: await pagers.anyLives() }), pagers };
}

test('what a living pager has half-written stays, whoever opens the store, and goes when the pager is dead', async () => {
  const dir = await scratch();
  const [store, own, other] = [join(dir, 'store'), join(dir, 'own'), join(dir, 'other')];
  await mkdir(store);
  const ingest = join(store, 'ingest');
  const kill = await startPager(own, store);
  for (const name of ['pager-1-0', 'store-1']) await writeFile(join(ingest, name), 'half');
  await openStore(store, own);
  expect(await readdir(ingest)).toEqual(['pager-1-0']);
  const killOther = await startPager(other, store);
  expect(await readdir(ingest)).toEqual(['pager-1-0']);
  await kill();
  await openStore(store, own);
  expect(await readdir(ingest)).toEqual(['pager-1-0']);
  await killOther();
  await openStore(store, own);
  expect(await readdir(ingest)).toEqual([]);
});

test('nothing goes from a store while the pager of another data directory lives', async () => {
  const dir = await scratch();
  const [path, own, other] = [join(dir, 'store'), join(dir, 'own'), join(dir, 'other')];
  await mkdir(path);
  const kill = await startPager(other, path);
  await startPager(own, path);
  const { store, pagers } = await openStore(path, own);
  const { digest } = await store.putBytes(Buffer.from('a layer that a sandbox of the other runs from'));
  const vmm = { pagerIfUp: () => null };
  const disks = { ifUp: () => null };
  const said: string[] = [];
  const log = { info: (text: string) => said.push(text), warn: () => undefined } as unknown as Logger;
  const housekeeping = new Housekeeping({ store, pins: new Pins(), vmm, disks, pagers, log });
  housekeeping.request();
  await expect.poll(() => said.join(), { timeout: 20_000 }).toContain('nothing is removed');
  // After the round that was begun.
  await store.gc({ inUse: () => new Set([digest]) });
  await store.verify(digest);
  await kill();
  const next = new Housekeeping({ store, pins: new Pins(), vmm, disks, pagers, log: silent });
  next.request();
  await expect.poll(() => stat(store.blobPath(digest)).catch(() => null), { timeout: 20_000 }).toBeNull();
  await next.close();
});
