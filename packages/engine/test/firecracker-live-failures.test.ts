/**
 * Live branches of a Firecracker that fail: the pager, the VMM or what was handed over. The VM runs on and can be branched, or has ended and
 * nothing of it is left.
 */
import { readdir } from 'node:fs/promises';
import { expect } from 'vitest';
import { killProcess, readStartTicks } from '../src/process.ts';
import { EXTENDED, expectRunning, type LiveBench, opened, proven, test } from './firecracker-live-support.ts';
import { differingPages, digests, type StandInConfig } from './firecracker-support.ts';

let live: LiveBench;

test.beforeEach(({ live: made }) => {
  live = made;
});

test('a VM runs on when the pager is killed during a branch, and the next pager branches it', async () => {
  const [vm, base] = await live.child();
  await proven(vm);
  const pagerProcess = { pid: live.pager.pid, startTicks: (await readStartTicks(live.pager.pid)) ?? 0 };
  let killed: Promise<void> | undefined;
  const branching = vm.branch(
    { mode: 'live', resume: true },
    { onEvent: ({ stage }) => void (stage === 'resumed' && (killed = killProcess(pagerProcess))) },
  );
  await expect(branching).rejects.toMatchObject({ code: 'pager_gone' });
  await killed;
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });

  live.pager = await live.bench.pager();
  expect(live.pager.pid).not.toBe(pagerProcess.pid);
  const adopted = await (await live.bench.engine('next')).adopt(vm.record, live.pager, false);
  if (!adopted) throw new Error('it runs');
  expect(digests(await proven(adopted)).slice(0, -1)).toEqual(digests(base));
  await expectRunning(adopted);
  // And by a third engine, with the pager that knows it.
  const again = await (await live.bench.engine('third')).adopt(vm.record, live.pager, true);
  expect(await again?.api.instance()).toMatchObject({ state: 'Paused' });
  if (again) await proven(again);
  await again?.kill();
  await adopted.kill();
});

test.each<[NonNullable<StandInConfig['fault']>, RegExp]>([
  ['vmstate_fails', /refused PUT \/snapshot\/create: .*told to fail/],
])('a branch that fails by %s leaves a VM that runs, and that the other modes branch', async (fault, message) => {
  await live.bench.configure({ ...EXTENDED, fault });
  const [vm, base] = await live.child();
  for (let round = 0; round < 2; round += 1) {
    await expect(vm.branch({ mode: 'live', resume: true })).rejects.toMatchObject({
      message: expect.stringMatching(message) as string,
    });
    expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
  }
  expect(await readdir(vm.record.dir)).not.toContain('wp.sock');
  const done = await vm.branch({ mode: 'diff', resume: false });
  expect(differingPages(await live.bench.memoryIn(live.pager, digests(done)), await live.bench.memoryOf(vm.api))).toBe(
    0,
  );
  expect(digests(done)).not.toEqual(digests(base));
  // A child of the same snapshot has nothing of what went wrong.
  await live.bench.configure(EXTENDED);
  await proven(await live.restore(base));
});

test('a VMM that ends inside the pause fails its branch, and nothing of it is left', async () => {
  await live.bench.configure({ ...EXTENDED, fault: 'exit_at_vmstate' });
  const [vm] = await live.child();
  await expect(vm.branch({ mode: 'live', resume: true })).rejects.toMatchObject({ code: 'vm_gone' });
  expect(await vm.exited).toMatchObject({ code: 148 });
  await vm.kill();
  expect(await opened(live.pager.pid, /userfaultfd|forkd-memory/)).toEqual([]);
  expect((await live.pager.inventory()).sandboxes).toEqual([]);
});

test('a VMM that is killed while its memory is copied fails its branch, and nothing of it is left', async () => {
  const [vm] = await live.child();
  await proven(vm);
  const branching = vm.branch(
    { mode: 'live', resume: true },
    { onEvent: ({ stage }) => void (stage === 'resumed' && process.kill(vm.record.pid, 'SIGKILL')) },
  );
  // What was read before the end came may have been all.
  const failure = await branching.then(
    () => null,
    (error: unknown) => error,
  );
  if (failure !== null) expect(failure).toMatchObject({ code: 'vm_gone' });
  expect(await vm.exited).toMatchObject({ signal: 'SIGKILL' });
  await vm.kill();
  expect(await opened(live.pager.pid, /userfaultfd|forkd-memory/)).toEqual([]);
  expect((await live.pager.inventory()).sandboxes).toEqual([]);
});

test('a failed or aborted restore leaves no memory with the pager', async () => {
  const [vm, base] = await live.child();
  await vm.kill();
  await live.bench.configure({ ...EXTENDED, fault: 'exit_early' });
  await expect(live.restore(base)).rejects.toMatchObject({ code: 'vm_start_failed' });
  await live.bench.configure(EXTENDED);
  await expect(live.restore({ ...base, device_state: { digest: 'sha256:none', size: 0 } })).rejects.toMatchObject({
    code: 'vm_start_failed',
  });
  expect(await opened(live.pager.pid, /forkd-memory/)).toEqual([]);
  expect((await live.pager.inventory()).sandboxes).toEqual([]);
});

test('an aborted branch leaves a running VM', async () => {
  const [vm] = await live.child();
  const giving = new AbortController();
  const reason = new Error('enough');
  const branching = vm.branch(
    { mode: 'live', resume: true },
    { signal: giving.signal, onEvent: ({ stage }) => stage === 'resumed' && giving.abort(reason) },
  );
  await branching.catch(() => undefined);
  await expectRunning(vm);
});
