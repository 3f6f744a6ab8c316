/**
 * Builds with the live extensions, asked for the memory of a VM: filters of system calls that end the process, really the kernel's, at
 * each of the moments when they may be set; a userfaultfd of which less was asked; and what the engine says of each before a VM that
 * somebody needs is touched.
 */
import { readdir, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { FirecrackerEngine } from '../src/firecracker/engine.ts';
import { EXTENDED, expectRunning, LiveBench, proven } from './firecracker-live-support.ts';
import { differingPages, digests, type StandInConfig } from './firecracker-support.ts';

let live: LiveBench | undefined;

beforeEach(() => {
  live = undefined;
});

afterEach(async () => {
  await live?.[Symbol.asyncDispose]();
});

async function open(config: StandInConfig): Promise<LiveBench> {
  live = await LiveBench.open({ ...EXTENDED, ...config });
  return live;
}

const seccompOf = ({ isolation }: FirecrackerEngine) => isolation.find(({ id }) => id === 'seccomp');

test('a build whose filters end it on a request for memory has no live branches, and no VM is lost', async () => {
  const { bench, engine, pager } = await open({ filters: 'from_load' });
  expect(engine.capabilities.live).toBe(
    'Firecracker 1.13.1 has no live branches: asked for the memory of a VM, it ended (SIGSYS). Its filters of system calls must allow userfaultfd.',
  );
  expect(seccompOf(engine)).toMatchObject({ ok: true });
  const parent = await bench.boot(engine, pager);
  const base = await parent.branch({ mode: 'full', resume: true });
  const child = await live!.restore(base);
  for (const vm of [parent, child]) {
    await expect(vm.branch({ mode: 'live', resume: true })).rejects.toMatchObject({ code: 'unsupported' });
    expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
    await vm.branch({ mode: 'diff', resume: true });
  }
  // Of the VMs that it was tried with nothing is left.
  expect((await readdir(join(bench.dir, 'engine'))).filter((name) => name.startsWith('probe-'))).toEqual([]);
});

test('a build that hands over memory only before a VM runs branches children live, but not booted VMs', async () => {
  const { bench, engine, pager } = await open({ filters: 'from_run' });
  expect(engine.capabilities.live).toBe(true);
  const parent = await bench.boot(engine, pager);
  await expect(parent.branch({ mode: 'live', resume: true })).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringContaining('A VM that was booted has none: asked for the memory of a VM') as string,
  });
  const base = await parent.branch({ mode: 'full', resume: true });
  expect(await parent.api.instance()).toMatchObject({ state: 'Running' });
  const child = await live!.restore(base);
  const done = await proven(child);
  await expectRunning(child);
  await expectRunning(await live!.restore(done));
});

test('a VM that a second request would end is not asked again for the memory that an ended pager had', async () => {
  const { bench, pager } = await open({ filters: 'from_run' });
  const [vm, base] = await live!.child();
  await proven(vm);
  process.kill(pager.pid, 'SIGKILL');
  await pager.gone;
  live!.pager = await bench.pager();
  const adopted = await (await bench.engine('next')).adopt(vm.record, live!.pager, false);
  if (!adopted) throw new Error('it runs');
  await expect(adopted.branch({ mode: 'live', resume: true })).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringContaining('Its memory was with a pager that has ended.') as string,
  });
  expect(adopted.agentSocket).toMatch(/agent\.sock$/);
  const done = await adopted.branch({ mode: 'diff', resume: false });
  expect(digests(done).slice(0, -1)).toEqual(digests(base));
  expect(differingPages(await bench.memoryIn(live!.pager, digests(done)), await bench.memoryOf(adopted.api))).toBe(0);
  await adopted.kill();
});

test('a userfaultfd with other features is accepted', async () => {
  await open({ write_features: 'alone' });
  const [vm] = await live!.child();
  await proven(vm);
  await expectRunning(vm);
});

test('a VM that hands over no memory or other memory runs without live branches and gives the reason', async () => {
  const { bench } = await open({});
  const [, base] = await live!.child();
  await bench.configure({ ...EXTENDED, fault: 'odd_handover' });
  const odd = await live!.restore(base);
  await expect(odd.branch({ mode: 'live', resume: true })).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringContaining('33550336 bytes instead of 33554432') as string,
  });
  const done = await odd.branch({ mode: 'diff', resume: false });
  expect(differingPages(await bench.memoryIn(live!.pager, digests(done)), await bench.memoryOf(odd.api))).toBe(0);
  // The pager keeps nothing of it.
  expect((await live!.pager.inventory()).sandboxes.map(({ sandbox }) => sandbox)).not.toContain(odd.record.id);
});

test('a build that hands over nothing or other memory is recognised by the trial', async () => {
  for (const [fault, why] of [
    ['odd_handover', 'it handed over 33550336 bytes of it.'],
    ['no_handover', 'it handed over nothing: '],
    ['vmstate_fails', 'the stand-in was told to fail'],
  ] as const) {
    const { engine } = await open({ fault });
    expect(engine.capabilities.live).toContain(why);
    await live?.[Symbol.asyncDispose]();
  }
});

test('only a build with all extensions is not tried again', async () => {
  const { bench } = await open({ filters: 'from_run' });
  const kept = async () => (await readdir(join(bench.dir, 'engine'))).filter((name) => name.startsWith('handover-'));
  expect(await kept()).toEqual([]);
  await bench.configure(EXTENDED);
  expect((await bench.engine()).capabilities.live).toBe(true);
  expect(await kept()).toHaveLength(1);
  // Remembered of the program, whose configuration the stand-in has beside it.
  await bench.configure({ ...EXTENDED, filters: 'from_load' });
  expect((await bench.engine()).capabilities.live).toBe(true);
  await rm(join(bench.dir, 'engine', (await kept())[0]!));
  expect((await bench.engine()).capabilities.live).toContain('SIGSYS');
});

test('the system call filter of Firecracker is read from its process', async () => {
  const { bench, engine } = await open({ filters: 'none' });
  expect(seccompOf(engine)).toMatchObject({
    ok: false,
    detail: expect.stringMatching(/^Firecracker does not filter its system calls: none of its \d+ threads/) as string,
  });
  await bench.configure({ ...EXTENDED, filters: 'allowing' });
  expect(seccompOf(await bench.engine('filtered'))).toMatchObject({ ok: true });
});

test('the vsock of a paused VM is silent, and answers once the VM goes on', async () => {
  const { bench, engine, pager } = await open({});
  const vm = await bench.boot(engine, pager);
  await vm.pause();
  const socket = connect(join(vm.record.dir, 'agent.sock'));
  const said = new Promise((resolve) => socket.once('data', resolve).once('close', () => resolve('closed')));
  socket.write('CONNECT 10777\n');
  // Whatever it would say has been said when the API has answered a hundred times.
  for (let round = 0; round < 100; round += 1) await vm.api.instance();
  expect(await Promise.race([said, Promise.resolve('silent')])).toBe('silent');
  await vm.resume();
  // The guest has no agent, and hangs up.
  expect(await said).toBe('closed');
});
