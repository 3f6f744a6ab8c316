/**
 * Firecracker's files and forkd's layers: a VM of the stand-in, whose threads write its memory all the time, is branched in full
 * and as a difference, and restored; every image is held, byte for byte, against what the paused VM itself writes down.
 */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { FirecrackerEngine } from '../src/firecracker/engine.ts';
import type { FirecrackerVm } from '../src/firecracker/vm.ts';
import type { Pager } from '../src/pager/client.ts';
import type { BranchDone } from '../src/pager/wire.ts';
import { type Bench, differingPages, digests, LOAD_PAGES, MEM_BYTES, test } from './firecracker-support.ts';

let bench: Bench;
let pager: Pager;
let engine: FirecrackerEngine;

test.beforeEach(({ bench: opened, pager: started, engine: found }) => {
  bench = opened;
  pager = started;
  engine = found;
});

/** A branch that leaves the VM stopped, and the memory that it has. */
async function branchAndTruth(vm: FirecrackerVm, mode: 'full' | 'diff'): Promise<[BranchDone, Buffer]> {
  const done = await vm.branch({ mode, resume: false });
  expect(await vm.api.instance()).toMatchObject({ state: 'Paused' });
  return [done, await bench.memoryOf(vm.api)];
}

/** The same of a VM that has run on, once it has written something. */
async function difference(vm: FirecrackerVm): Promise<[BranchDone, Buffer]> {
  for (;;) {
    await vm.resume();
    const done = await vm.branch({ mode: 'diff', resume: false });
    if (done.stats.captured_pages > 0) return [done, await bench.memoryOf(vm.api)];
  }
}

function restore(done: BranchDone): Promise<FirecrackerVm> {
  const machine = engine.machine(MEM_BYTES / 2 ** 20, 1);
  const deviceState = bench.blob(done.device_state.digest);
  return bench.keep(engine.restore({ ...bench.spec(pager), machine, stack: digests(done), deviceState }));
}

/** Resolves when the guest has written something since. */
async function untilItWrites(vm: FirecrackerVm, before: Buffer): Promise<void> {
  await vm.resume();
  for (;;) {
    await vm.pause();
    if (differingPages(await bench.memoryOf(vm.api), before) > 0) return;
    await vm.resume();
  }
}

test('every page of every image is right through boot, a full branch, two diffs and restores', async () => {
  const vm = await bench.boot(engine, pager);
  const [base, atBase] = await branchAndTruth(vm, 'full');
  expect(base.stack).toHaveLength(1);
  expect(differingPages(await bench.memoryIn(pager, digests(base)), atBase)).toBe(0);

  const stacks = [digests(base)];
  let last: [BranchDone, Buffer] = [base, atBase];
  for (let depth = 2; depth <= 3; depth += 1) {
    last = await difference(vm);
    const [done, truth] = last;
    expect(done.stack).toHaveLength(depth);
    expect(digests(done).slice(0, -1)).toEqual(stacks.at(-1));
    expect(done.stats.captured_pages).toBeGreaterThan(0);
    expect(done.stats.captured_bytes).toBeLessThan(MEM_BYTES / 2);
    expect(differingPages(await bench.memoryIn(pager, digests(done)), truth)).toBe(0);
    stacks.push(digests(done));
  }

  // Loaded and not let run, a child has the very bytes of the last image.
  const [done, truth] = last;
  const path = join(bench.dir, 'flat');
  await pager.exportMemory(MEM_BYTES, digests(done), path);
  const child = await bench.bare();
  const memory = { type: 'File', path } as const;
  const load = { snapshotPath: bench.blob(done.device_state.digest), memory, trackDirtyPages: true, resume: false };
  await child.api.loadSnapshot(load, engine.features);
  expect(differingPages(await bench.memoryOf(child.api), truth, LOAD_PAGES)).toBe(0);

  // And restored by the engine it runs, and its own difference lies over its parent's layers.
  const restored = await restore(done);
  expect(await restored.api.instance()).toMatchObject({ state: 'Running' });
  const [grandchild, atGrandchild] = await difference(restored);
  expect(digests(grandchild).slice(0, 3)).toEqual(digests(done));
  expect(grandchild.stack).toHaveLength(4);
  expect(differingPages(await bench.memoryIn(pager, digests(grandchild)), atGrandchild)).toBe(0);
  // What a child writes is its own.
  expect(differingPages(await bench.memoryIn(pager, digests(done)), truth)).toBe(0);
});

test('a branch keeps the VM running or paused as it was, and leaves no files', async () => {
  const vm = await bench.boot(engine, pager);
  const stages: string[] = [];
  await vm.branch({ mode: 'full', resume: true }, { onEvent: ({ stage }) => stages.push(stage) });
  expect(stages).toEqual(['resumed', 'ready']);
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
  await vm.pause();
  const done = await vm.branch({ mode: 'diff', resume: true });
  expect(await vm.api.instance()).toMatchObject({ state: 'Paused' });
  const again = await vm.branch({ mode: 'diff', resume: true });
  expect(again.stack).toEqual(done.stack);
  expect(again.stats.captured_pages).toBe(0);
  expect((await readdir(vm.record.dir)).filter((name) => name.startsWith('snapshot-'))).toEqual([]);
});

test('children of one snapshot after the first map one file, which is removed with the last of them', async () => {
  const vm = await bench.boot(engine, pager);
  const done = await vm.branch({ mode: 'full', resume: true });
  const dir = join(bench.dir, 'engine/memory');
  // It is served page by page.
  await restore(done);
  expect(await readdir(dir)).toEqual([]);
  const [one, two] = await Promise.all([restore(done), restore(done)]);
  expect(await readdir(dir)).toHaveLength(1);
  await one.kill();
  expect(await readdir(dir)).toHaveLength(1);
  await two.kill();
  expect(await readdir(dir)).toEqual([]);
  // Asked for again, it is made again.
  const three = await restore(done);
  expect((await stat(join(dir, (await readdir(dir))[0] ?? ''))).size).toBe(MEM_BYTES);
  await three.kill();
});

test('a full disk fails the branch, and the next branch misses nothing', async () => {
  const vm = await bench.boot(engine, pager);
  const [base] = await branchAndTruth(vm, 'full');
  await bench.configure({ fault: 'disk_full' });
  const child = await restore(base);
  await bench.configure({});
  await expect(child.branch({ mode: 'diff', resume: true })).rejects.toMatchObject({
    code: 'vmm_refused',
    message: expect.stringContaining('No space left on device') as string,
  });
  expect(await child.api.instance()).toMatchObject({ state: 'Running' });
  expect((await readdir(child.record.dir)).filter((name) => name.startsWith('snapshot-'))).toEqual([]);
});

test('a failed import keeps the pages that Firecracker no longer tracks', async () => {
  const vm = await bench.boot(engine, pager);
  const [base, atBase] = await branchAndTruth(vm, 'full');
  const child = await restore(base);
  await child.pause();
  await untilItWrites(child, atBase);
  // Its difference reaches the file, and no further.
  const importMemory = pager.importMemory.bind(pager);
  pager.importMemory = () => Promise.reject(new Error('the pager went away'));
  await expect(child.branch({ mode: 'diff', resume: false })).rejects.toThrow('the pager went away');
  pager.importMemory = importMemory;
  const [done, truth] = await branchAndTruth(child, 'diff');
  expect(digests(done)[0]).toBe(digests(base)[0]);
  expect(differingPages(await bench.memoryIn(pager, digests(done)), truth)).toBe(0);
  expect(differingPages(truth, atBase)).toBeGreaterThan(0);
});

test('a full branch that measures a diff is whole, and tells what the diff would have held', async () => {
  const vm = await bench.boot(engine, pager);
  let done;
  do done = await vm.branch({ mode: 'full', resume: true, measureDiff: true });
  while (done.stats.diff_pages === 0);
  expect(done.stats.diff_us).toBeGreaterThan(0);
  expect(done.stats.diff_us).toBeLessThan(done.stats.pause_us);
  expect(done.stats.diff_pages).toBeLessThan(MEM_BYTES / 4096);
  const last = await vm.branch({ mode: 'full', resume: false, measureDiff: true });
  expect(last.stack).toHaveLength(1);
  expect(differingPages(await bench.memoryIn(pager, digests(last)), await bench.memoryOf(vm.api))).toBe(0);
});

test('branches run one at a time, and a late signal changes nothing that is done', async () => {
  const vm = await bench.boot(engine, pager);
  const first = vm.branch({ mode: 'full', resume: true });
  await expect(vm.branch({ mode: 'diff', resume: true })).rejects.toMatchObject({ code: 'busy' });
  await expect(vm.pause()).rejects.toThrow('A branch of sb-1 is under way.');
  await first;
  const reason = new Error('enough');
  await expect(vm.branch({ mode: 'full', resume: true }, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
  await vm.branch({ mode: 'diff', resume: true });
});
