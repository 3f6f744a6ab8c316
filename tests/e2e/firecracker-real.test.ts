/**
 * A real Firecracker, which cannot be had from a package registry: `FORKD_TEST_FIRECRACKER=PATH` names the program, and without it
 * these tests are skipped. The guest is the payload without a kernel, so that they need a KVM that runs small programs and no more.
 * Branches are proven by the payload's rule and by children; the live ones, of a build with the extensions, by an audit as well.
 */

import { type BranchDone, type Vm, isRunning } from '@forkd/engine';
import { checkPayload, PayloadLab, whyNoKvmDevice } from '@forkd/testing';
import { expect, test } from 'vitest';

const PROGRAM = process.env['FORKD_TEST_FIRECRACKER'];
const MEM_MIB = 32;
const CHILDREN = 20;
const DEPTH = 5;
const LIVE_BRANCHES = 40;
/** A child reports at most so many steps after the branch that it was started from. */
const STEPS_MAX = 3 * 4096;
const PAGER_NOTICE_MS = 20_000;

type Skip = (condition: boolean, note?: string) => void;

async function open(skip: Skip): Promise<PayloadLab> {
  skip(PROGRAM === undefined, 'FORKD_TEST_FIRECRACKER does not name a firecracker program');
  const noKvm = await whyNoKvmDevice();
  skip(noKvm !== null, noKvm ?? '');
  return PayloadLab.start({ firecracker: PROGRAM ?? '' });
}

async function booted(lab: PayloadLab): Promise<Vm> {
  const vm = await lab.boot(MEM_MIB);
  await lab.console(vm).goesOn(3);
  return vm;
}

/** The newest step of a branch whose memory is right. */
async function expectRight(lab: PayloadLab, vm: Vm, done: BranchDone): Promise<number> {
  const { newest, wrong } = checkPayload(await lab.memoryIn(vm, done));
  expect(wrong).toEqual([]);
  return newest;
}

async function expectGoesOn(lab: PayloadLab, vm: Vm, newest: number): Promise<void> {
  const [first = NaN] = await lab.console(vm).goesOn(2);
  expect(first).toBeGreaterThanOrEqual(newest - 1);
  expect(first).toBeLessThan(newest + STEPS_MAX);
}

test('full and diff branches under a real Firecracker are correct, and twenty children of one go on', async ({
  skip,
}) => {
  await using lab = await open(skip);
  const vm = await booted(lab);
  const done = await vm.branch({ mode: 'full', resume: true });
  const newest = await expectRight(lab, vm, done);
  await lab.console(vm).goesOn(1);
  await lab.kill(vm);
  const point = lab.point(vm, done);
  const children = await Promise.all(Array.from({ length: CHILDREN }, () => lab.restore(point)));
  await Promise.all(children.map((child) => expectGoesOn(lab, child, newest)));
  for (const child of children.slice(0, 6)) {
    await expectRight(lab, child, await child.branch({ mode: 'diff', resume: true }));
    await lab.console(child).goesOn(1);
  }
});

test('live branches under a real Firecracker with the extensions are correct through five generations', async ({
  skip,
}) => {
  await using lab = await open(skip);
  const { live } = lab.engine.capabilities;
  skip(live !== true, String(live));
  const boot = await booted(lab);
  let point = lab.point(boot, await boot.branch({ mode: 'full', resume: false }));
  await lab.kill(boot);
  for (let depth = 0; depth < DEPTH; depth += 1) {
    const vm = await lab.restore(point);
    await lab.console(vm).goesOn(2);
    for (let round = 0; round < LIVE_BRANCHES / DEPTH; round += 1) {
      const done = await vm.branch({ mode: 'live', resume: true, audit: true });
      expect(done.audit).toMatchObject({ differing_pages: 0 });
      await expectRight(lab, vm, done);
      point = lab.point(vm, done);
    }
    await lab.console(vm).goesOn(1);
    await lab.kill(vm);
  }
});

test.for(['SIGKILL', 'SIGSTOP'] as const)(
  'a pager that ends by %s while a real Firecracker loads is noticed',
  async (how, { skip }) => {
    await using lab = await open(skip);
    const vm = await booted(lab);
    const point = lab.point(vm, await vm.branch({ mode: 'full', resume: false }));
    const { pager } = lab;
    const serve = pager.servePages.bind(pager);
    pager.servePages = async (request) => {
      await serve(request);
      process.kill(pager.pid, how);
      // A process that is stopped ends a little later.
      if (how === 'SIGSTOP') setTimeout(() => process.kill(pager.pid, 'SIGKILL'), 500);
    };
    const start = performance.now();
    const child = await lab.restore(point).catch((error: unknown) => error);
    // Either the restore is refused, or the child is ended as soon as it is seen that its pages are lost.
    if (!(child instanceof Error)) {
      await (child as Vm).exited;
      expect(await isRunning((child as Vm).record)).toBe(false);
    }
    expect(performance.now() - start).toBeLessThan(PAGER_NOTICE_MS);
  },
);
