/**
 * The memory of a Firecracker is made its own before it runs, in each of the three ways in which it can have it: served page by
 * page, mapped from a file that its siblings map too, lent by the pager. The stand-in writes down its memory before it has run,
 * which is held byte for byte against what its source had.
 */
import { randomBytes } from 'node:crypto';
import { chmod, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { FirecrackerEngine } from '../src/firecracker/engine.ts';
import { announcement } from '../src/firecracker/live.ts';
import type { Pager } from '../src/pager/client.ts';
import type { Refresh } from '../src/pager/wire.ts';
import { type Bench, differingPages, digests, LOAD_PAGES, MEM_BYTES, MEM_MIB, test } from './firecracker-support.ts';

const PAGE = 4096;
/** Across the border of two pages. */
const KEY = { at: 5 * PAGE - 10, bytes: 32, op: 'mix' } as const;
const COUNT = { at: 9 * PAGE + 48, bytes: 8, op: 'count' } as const;
/** A place at which no magic number stands. */
const MOVED = { at: 12 * PAGE, bytes: 24, op: 'page' } as const;
const REFRESH: Refresh[] = [KEY, COUNT, MOVED];
const OUTSIDE: Refresh[] = [{ at: MEM_BYTES - 4, bytes: 8, op: 'count' }];

let bench: Bench;
let pager: Pager;
let engine: FirecrackerEngine;

test.beforeEach(({ bench: opened, pager: started, engine: found }) => {
  bench = opened;
  pager = started;
  engine = found;
});

/** A snapshot of a VM, and the memory that it had. */
async function point() {
  const source = await bench.boot(engine, pager);
  const done = await source.branch({ mode: 'full', resume: false });
  const stack = digests(done);
  return { stack, truth: await bench.memoryIn(pager, stack), deviceState: bench.blob(done.device_state.digest) };
}

type Point = Awaited<ReturnType<typeof point>>;

async function served({ stack, deviceState }: Point): Promise<Buffer> {
  const { api, started, dir } = await bench.bare();
  const sandbox = `served-${started.pid}`;
  const socket = join(dir, 'pages.sock');
  await pager.servePages({ sandbox, pid: started.pid, mem_bytes: MEM_BYTES, stack, refresh: REFRESH, socket });
  const memory = { type: 'Uffd', path: 'pages.sock' } as const;
  await api.loadSnapshot({ snapshotPath: deviceState, memory, trackDirtyPages: true, resume: false }, engine.features);
  return bench.memoryOf(api);
}

/** Gives a loader of one file, which siblings share. */
async function file({ stack, deviceState }: Point) {
  const path = join(bench.dir, `memory-${randomBytes(4).toString('hex')}`);
  await pager.exportMemory(MEM_BYTES, stack, path);
  await chmod(path, 0o444);
  const load = async (): Promise<Buffer> => {
    const { api, started } = await bench.bare();
    const memory = { type: 'File', path } as const;
    const options = { snapshotPath: deviceState, memory, trackDirtyPages: true, resume: false };
    await api.loadSnapshot(options, engine.features);
    await pager.refreshMapped({ pid: started.pid, path, mem_bytes: MEM_BYTES, refresh: REFRESH });
    return bench.memoryOf(api);
  };
  return { path, load };
}

async function lent({ stack }: Point): Promise<Buffer> {
  const id = `lent-${randomBytes(4).toString('hex')}`;
  const machine = engine.machine(MEM_MIB, 1);
  const announced = announcement({ id, dir: bench.dir, pid: process.pid, machine, stack });
  await pager.announce({ ...announced, refresh: REFRESH });
  const memory = await readFile(await pager.lendMemory(id));
  await pager.release(id);
  return memory;
}

/** The key, once all else is proven to be as it was or counted up. */
function keyOf(memory: Buffer, truth: Buffer): Buffer {
  const expected = Buffer.from(truth);
  expected.writeBigUInt64LE(truth.readBigUInt64LE(COUNT.at) + 1n, COUNT.at);
  memory.copy(expected, KEY.at, KEY.at, KEY.at + KEY.bytes);
  expect(differingPages(memory, expected, LOAD_PAGES)).toBe(0);
  return memory.subarray(KEY.at, KEY.at + KEY.bytes);
}

test('siblings differ from their source and each other in the key alone, however they get their memory', async () => {
  const from = await point();
  const shared = await file(from);
  const memories = [served, served, shared.load, shared.load, lent, lent].map((way) => way(from));
  const keys = [];
  for (const memory of memories) keys.push(keyOf(await memory, from.truth));
  keys.push(from.truth.subarray(KEY.at, KEY.at + KEY.bytes));
  expect(new Set(keys.map((key) => key.toString('hex'))).size).toBe(7);
  // Pages that one child has made its own are in no sibling's file.
  expect((await readFile(shared.path)).equals(from.truth)).toBe(true);
});

test('a restored VM has a key of its own, served or from a file, and so have its branches', async () => {
  const { stack, truth, deviceState } = await point();
  const machine = engine.machine(MEM_MIB, 1);
  const restore = () =>
    bench.keep(engine.restore({ ...bench.spec(pager), machine, stack, deviceState, refresh: REFRESH }));
  // The first is served, and the second maps a file since the first is there.
  const keys = [truth.subarray(KEY.at, KEY.at + KEY.bytes)];
  for (const vm of [await restore(), await restore()]) {
    const full = await vm.branch({ mode: 'full', resume: false });
    const memory = await bench.memoryIn(pager, digests(full));
    keys.push(memory.subarray(KEY.at, KEY.at + KEY.bytes));
  }
  expect(new Set(keys.map((key) => key.toString('hex'))).size).toBe(3);
});

test('a refresh outside of memory starts no VM', async () => {
  const { stack, deviceState } = await point();
  const machine = engine.machine(MEM_MIB, 1);
  const restore = () => engine.restore({ ...bench.spec(pager), machine, stack, deviceState, refresh: OUTSIDE });
  await expect(restore()).rejects.toThrow(/outside of memory/);
  const first = await bench.keep(engine.restore({ ...bench.spec(pager), machine, stack, deviceState }));
  // The first one is served, so this one maps a file.
  await expect(restore()).rejects.toThrow(/outside of memory/);
  await first.kill();
});
