/**
 * Live branches of guests that KVM runs, byte for byte. The guest is a payload without a kernel, so the tests also run where KVM
 * runs no Linux: it rewrites its memory and checks every page before it writes it, and what memory must hold follows from one
 * number. Each branch is proven three times: by a copy made inside its pause, by that rule, and by children that go on from it.
 * Emulation does a part of the same where KVM runs the payload: what has its own tests with real guests is left out.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Accelerator, type BranchDone, EngineError, isRunning, type Vm, type VmBranch } from '@forkd/engine';
import { availableMib, checkPayload, PayloadLab, type PayloadLabOptions, until, whyNoKvmDevice } from '@forkd/testing';
import { describe, expect, test } from 'vitest';

const MEM_MIB = 64;
const MODES = ['full', 'diff', 'live'] as const;
const LARGE_MIB = 4096;
/** Two reports of the payload are so many steps apart. */
const REPORT_STEPS = 4096;
const DEPTH = 4;
const CHILDREN = 20;
/** How many of the children are branched live at the same time. */
const BRANCHED_CHILDREN = 6;
const WAIT_MS = 30_000;

const noKvm = await whyNoKvmDevice();

type Skip = (condition: boolean, note?: string) => void;

function open(skip: Skip, accelerator: Accelerator, options: Partial<PayloadLabOptions> = {}): Promise<PayloadLab> {
  if (accelerator === 'kvm') skip(noKvm !== null, noKvm ?? '');
  return PayloadLab.start({ accelerator, ...options });
}

/** A branch whose memory is right by the copy that was made in the pause, and by the payload's rule. */
async function expectRight(lab: PayloadLab, vm: Vm, branch: Partial<VmBranch> = {}, pages?: number) {
  const done = await vm.branch({ mode: 'live', resume: true, audit: true, ...branch });
  expect(done.audit).toMatchObject({ differing_pages: 0 });
  const { newest, wrong } = checkPayload(await lab.memoryIn(vm, done), pages);
  expect(wrong).toEqual([]);
  return { done, newest };
}

/** A child that has gone on from the step of the branch. */
async function expectGoesOn(lab: PayloadLab, vm: Vm, branch: { done: BranchDone; newest: number }): Promise<Vm> {
  const restored = await lab.restore(lab.point(vm, branch.done));
  const [first = NaN] = await lab.console(restored).goesOn(3);
  expect(first).toBeGreaterThanOrEqual(branch.newest - 1);
  expect(first).toBeLessThanOrEqual(branch.newest + 2 * REPORT_STEPS);
  return restored;
}

async function booted(lab: PayloadLab, memMib = MEM_MIB, vcpus = 1): Promise<Vm> {
  const vm = await lab.boot(memMib, vcpus);
  await lab.console(vm).goesOn(3);
  return vm;
}

describe.each(['kvm', 'tcg'] as const)('under %s', (accelerator) => {
  const isPart = accelerator === 'tcg' && noKvm === null;
  for (const stays32Bit of isPart ? [false] : [false, true]) {
    const code = stays32Bit ? 'in 32-bit code without paging' : 'in unprivileged 64-bit code';
    const window = stays32Bit ? 'monitor' : 'inside';
    test(`branches a guest that writes ${code} correctly in each mode, paused by ${window}`, async ({ skip }) => {
      await using lab = await open(skip, accelerator, { stays32Bit, window });
      const vm = await booted(lab);
      let changed = 0;
      for (const mode of [...MODES, ...MODES]) {
        const branch = await expectRight(lab, vm, { mode });
        if (mode === 'live') expect(branch.done.stats.window).toBe(lab.engine.window);
        if (mode === 'live') changed += branch.done.audit?.changed_since ?? 0;
        await lab.kill(await expectGoesOn(lab, vm, branch));
        await lab.console(vm).goesOn(2);
      }
      // Otherwise the guest did not write while it was captured.
      expect(changed).toBeGreaterThan(0);
    });
  }

  test(`starts ${CHILDREN} children of one branch at once, and branches them at once`, async ({ skip }) => {
    // Guests write without a rest: short reports end the wait once each guest has been through all of its pages.
    await using lab = await open(skip, accelerator, { pages: 2048, reportSteps: 1024 });
    const vm = await booted(lab);
    const { done } = await expectRight(lab, vm, {}, 2048);
    await lab.kill(vm);
    const point = lab.point(vm, done);
    const children = await Promise.all(Array.from({ length: CHILDREN }, () => lab.restore(point)));
    await Promise.all(children.map((one) => lab.console(one).goesOn(3)));
    await Promise.all(children.slice(0, BRANCHED_CHILDREN).map((one) => expectRight(lab, one, {}, 2048)));
    await Promise.all(children.map((one) => lab.console(one).goesOn(3)));
  });

  if (isPart) return;

  test(`restores a chain of ${DEPTH} branches correctly, each of a child of the last`, async ({ skip }) => {
    await using lab = await open(skip, accelerator);
    let vm = await booted(lab);
    for (let depth = 0; depth < DEPTH; depth += 1) {
      const branch = await expectRight(lab, vm);
      vm = await expectGoesOn(lab, vm, branch);
    }
  });

  test('keeps a paused guest still through equal branches, then lets it go on', async ({ skip }) => {
    await using lab = await open(skip, accelerator);
    const vm = await booted(lab);
    await vm.pause();
    const first = await expectRight(lab, vm);
    const second = await expectRight(lab, vm);
    expect(lab.point(vm, second.done).stack).toEqual(lab.point(vm, first.done).stack);
    await vm.resume();
    await lab.console(vm).goesOn(3);
  });

  test('branches and restores a guest with two processors', async ({ skip }) => {
    await using lab = await open(skip, accelerator);
    const vm = await booted(lab, MEM_MIB, 2);
    await expectRight(lab, await expectGoesOn(lab, vm, await expectRight(lab, vm)));
  });

  test('gives a branch to VMMs that wait', async ({ skip }) => {
    await using lab = await open(skip, accelerator, { poolMax: 2 });
    const vm = await booted(lab);
    const branch = await expectRight(lab, vm);
    await lab.fill(lab.point(vm, branch.done), 2);
    for (let round = 0; round < 2; round += 1) await expectRight(lab, await expectGoesOn(lab, vm, branch));
  });

  test('keeps the guest running and its next branch correct when the pager is killed during branches', async ({
    skip,
  }) => {
    await using lab = await open(skip, accelerator);
    let vm = await booted(lab);
    for (const afterMs of [2, 5, 8]) {
      const branch = vm.branch({ mode: 'live', resume: true }).catch((error: unknown) => error);
      await delay(afterMs);
      process.kill(lab.pager.pid, 'SIGKILL');
      await branch;
      await lab.pager.gone;
      await lab.newPager();
      const adopted = await lab.engine.adopt(vm.record, lab.pager, false);
      if (!adopted) throw new Error('the guest has ended');
      vm = adopted;
      await until('the shim has called the new pager', WAIT_MS, async () => {
        return (await lab.pager.inventory()).sandboxes.some(({ attached }) => attached);
      });
      await expectRight(lab, vm);
      await lab.console(vm).goesOn(2);
    }
  });

  test('kills a guest in bounded time while its pager is stopped', async ({ skip }) => {
    await using lab = await open(skip, accelerator);
    const vm = await booted(lab);
    process.kill(lab.pager.pid, 'SIGSTOP');
    try {
      await vm.kill();
      expect(await isRunning(vm.record)).toBe(false);
    } finally {
      process.kill(lab.pager.pid, 'SIGCONT');
    }
  });
});

test(`a live branch of a guest of ${LARGE_MIB} MiB under KVM is correct`, async ({ skip }) => {
  const availableNowMib = await availableMib();
  const neededMib = 2 * LARGE_MIB + 1024;
  skip(availableNowMib < neededMib, `it takes ${neededMib} MiB of memory, and the host has ${availableNowMib}`);
  await using lab = await open(skip, 'kvm', { pages: 16_384 });
  const vm = await booted(lab, LARGE_MIB);
  const done = await vm.branch({ mode: 'live', resume: true, audit: true });
  expect(done.audit).toMatchObject({ checked_pages: LARGE_MIB * 256, differing_pages: 0 });
  await lab.console(await lab.restore(lab.point(vm, done))).goesOn(2);
});

test('a guest whose processor KVM gives up on ends with the reason', async ({ skip }) => {
  await using lab = await open(skip, 'kvm', { stays32Bit: true, givesUp: true });
  const vm = await lab.boot(MEM_MIB);
  expect(await vm.exited).toMatchObject({
    why: { kind: 'processor', text: expect.stringContaining('internal-error') },
    log: expect.stringContaining('emulation failure'),
  });
  expect(await isRunning(vm.record)).toBe(false);
});

test("a snapshot under kvm records what its guest's processor has, and is refused on another", async ({ skip }) => {
  await using lab = await open(skip, 'kvm');
  const vm = await booted(lab);
  const { processor } = vm.record.machine;
  if (!processor) throw new Error('no processor was recorded');
  expect(processor).toMatchObject({ vendor: expect.stringMatching(/./), flags: expect.stringMatching(/(^| )fpu /) });
  const { done } = await expectRight(lab, vm);
  const point = lab.point(vm, done);
  const other = { ...processor, stepping: processor.stepping + 1, flags: `${processor.flags} zz-new` };
  await expect(lab.restore({ ...point, machine: { ...point.machine, processor: other } })).rejects.toMatchObject({
    code: 'machine_mismatch',
    message: expect.stringMatching(/stepping is \d+ here and \d+ there; the processor lacks these flags here: zz-new/),
  });
  // A snapshot from before processors were recorded resumes as before.
  const { processor: _, ...older } = point.machine;
  await lab.console(await lab.restore({ ...point, machine: older })).goesOn(2);
});

test('a guest with the portable processor model runs under KVM, or QEMU names what the host lacks', async ({
  skip,
}) => {
  await using lab = await open(skip, 'kvm');
  const vm = await lab.boot(MEM_MIB, 1, 'x86-64-v2').catch((error: EngineError) => error);
  if (vm instanceof EngineError) {
    expect(vm).toMatchObject({
      code: 'vm_start_failed',
      hint: expect.stringContaining("doesn't support requested feature"),
    });
    return;
  }
  expect(vm.record.machine.cpu_model).toContain('enforce');
  const branch = await expectRight(lab, vm);
  await expectGoesOn(lab, vm, branch);
});
