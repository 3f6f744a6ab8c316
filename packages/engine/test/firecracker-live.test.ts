/**
 * Live branches of a Firecracker with the extensions, in whose place the stand-in is: its threads write all over its memory, which is in two
 * regions, all the time. Each image is held, byte for byte, against a copy that is made inside the pause, or against what the paused VM
 * itself writes down. What fails leaves a VM that runs.
 */
import { chmod, readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

import type { FirecrackerEngine } from '../src/firecracker/engine.ts';
import { capabilitiesOfVm } from '../src/firecracker/live.ts';
import type { FirecrackerVm } from '../src/firecracker/vm.ts';
import type { Pager } from '../src/pager/client.ts';
import type { BranchDone } from '../src/pager/wire.ts';
import { killProcess, readStartTicks } from '../src/process.ts';
import { Bench, differingPages, MEM_BYTES, MEM_MIB, type StandInConfig } from './firecracker-support.ts';

const EXTENDED: StandInConfig = { extensions: true, gap_at_mib: 20 };
const PAGES = MEM_BYTES / 4096;

let bench: Bench;
let pager: Pager;
let engine: FirecrackerEngine;

beforeEach(async () => {
  bench = await Bench.open(EXTENDED);
  pager = await bench.pager();
  engine = await bench.engine();
});

afterEach(async () => {
  await bench[Symbol.asyncDispose]();
});

const digests = (done: BranchDone): string[] => done.stack.map(({ digest }) => digest);

function restore(done: BranchDone, by = engine): Promise<FirecrackerVm> {
  const machine = by.machine(MEM_MIB, 1);
  const deviceState = bench.blob(done.device_state.digest);
  return bench.keep(by.restore({ ...bench.spec(pager), machine, stack: digests(done), deviceState }));
}

/** A VM that was restored, and the branch that it was restored from. */
async function child(): Promise<[FirecrackerVm, BranchDone]> {
  const parent = await bench.boot(engine, pager);
  const base = await parent.branch({ mode: 'full', resume: false });
  await parent.kill();
  return [await restore(base), base];
}

/** A live branch that is proven by a copy made inside the pause. */
async function proven(vm: FirecrackerVm, resume = true): Promise<BranchDone> {
  const done = await vm.branch({ mode: 'live', resume, audit: true });
  expect(done.audit).toMatchObject({ checked_pages: PAGES, differing_pages: 0 });
  return done;
}

async function expectRunning(vm: FirecrackerVm): Promise<void> {
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
  // And so it writes.
  const [before, after] = [await proven(vm), await proven(vm)];
  expect(digests(after).at(-1)).not.toBe(digests(before).at(-1));
}

/** What a process has open of that kind. */
async function opened(pid: number, kind: RegExp): Promise<string[]> {
  const names = await readdir(`/proc/${pid}/fd`);
  const targets = await Promise.all(names.map((name) => readlink(`/proc/${pid}/fd/${name}`).catch(() => '')));
  return targets.filter((target) => kind.test(target));
}

test('five branches of one VM while it writes, each as memory was at its instant', async () => {
  const [vm, base] = await child();
  const maps = (await readFile(`/proc/${vm.record.pid}/maps`, 'utf8')).split('\n');
  const shared = maps.filter((line) => /rw-s .*forkd-memory/.test(line));
  expect(shared).toHaveLength(2);
  // The VM alone has its memory now.
  expect(await opened(pager.pid, /forkd-memory/)).toEqual([]);
  let changed = 0;
  for (let round = 0; round < 5; round += 1) {
    const stages: string[] = [];
    const done = await vm.branch(
      { mode: 'live', resume: true, audit: true },
      { onEvent: ({ stage }) => stages.push(stage) },
    );
    expect(stages).toEqual(['resumed', 'ready']);
    expect(done.audit).toMatchObject({ checked_pages: PAGES, differing_pages: 0 });
    changed += done.audit?.changed_since ?? 0;
    // A difference to what it started from, and nothing that is the same there.
    expect(digests(done)).toEqual([...digests(base), expect.any(String)]);
    expect(done.stats.captured_pages).toBeGreaterThan(0);
    expect(done.stats.captured_pages).toBeLessThanOrEqual(done.stats.private_pages);
  }
  expect(changed).toBeGreaterThan(0);
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
  const done = await proven(vm, false);
  expect(await vm.api.instance()).toMatchObject({ state: 'Paused' });
  expect(differingPages(await bench.memoryIn(pager, digests(done)), await bench.memoryOf(vm.api))).toBe(0);
});

test('a booted VM, its child, grandchild and great-grandchild; diff and full go on as before', async () => {
  let vm = await bench.boot(engine, pager);
  let done = await proven(vm);
  expect(done.stack).toHaveLength(1);
  for (let depth = 2; depth <= 4; depth += 1) {
    vm = await restore(done);
    const next = await proven(vm);
    expect(digests(next).slice(0, -1)).toEqual(digests(done));
    expect(next.stack).toHaveLength(depth);
    done = next;
  }
  for (const mode of ['diff', 'full', 'live', 'diff'] as const) {
    const other = await vm.branch({ mode, resume: false });
    expect(differingPages(await bench.memoryIn(pager, digests(other)), await bench.memoryOf(vm.api))).toBe(0);
    await vm.resume();
  }
  expect((await vm.floor()).pause_us).toBeGreaterThan(0);
  await expectRunning(vm);
});

test('a VM that is paused is branched and stays paused', async () => {
  const [vm] = await child();
  await vm.pause();
  const [one, two] = [await proven(vm), await proven(vm)];
  expect(await vm.api.instance()).toMatchObject({ state: 'Paused' });
  expect(digests(two)).toEqual(digests(one));
  await vm.resume();
  await expectRunning(vm);
});

test('what is sent to the guest during branches is in its memory and in its device, or in neither', async () => {
  const agent = join(bench.dir, 'agent.mjs');
  await writeFile(agent, `#!${process.execPath}\n${AGENT}`);
  await chmod(agent, 0o700);
  // Devices go on for a while between the saving of their state and the protection of memory.
  await bench.configure({ ...EXTENDED, agent, fault: 'slow_vmstate' });
  const [vm] = await child();
  const sender = keepSending(vm);
  try {
    let last = 0;
    for (let round = 0; round < 8; round += 1) {
      await sender.until((echoed) => echoed > last);
      last = sender.echoed;
      const done = await proven(vm);
      const memory = await bench.memoryIn(pager, digests(done));
      const state = JSON.parse((await readFile(bench.blob(done.device_state.digest))).subarray(12).toString()) as {
        received: number;
      };
      expect(state.received).toBeGreaterThan(0);
      expect(Number(memory.readBigUInt64LE(0))).toBe(state.received);
    }
  } finally {
    sender.stop();
  }
});

test('the pager is killed in the middle of a branch: the VM runs on, and the next pager branches it', async () => {
  const [vm, base] = await child();
  await proven(vm);
  const pagerProcess = { pid: pager.pid, startTicks: (await readStartTicks(pager.pid)) ?? 0 };
  let killed: Promise<void> | undefined;
  const branching = vm.branch(
    { mode: 'live', resume: true },
    { onEvent: ({ stage }) => void (stage === 'resumed' && (killed = killProcess(pagerProcess))) },
  );
  await expect(branching).rejects.toMatchObject({ code: 'pager_gone' });
  await killed;
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });

  pager = await bench.pager();
  expect(pager.pid).not.toBe(pagerProcess.pid);
  const adopted = await (await bench.engine('next')).adopt(vm.record, pager, false);
  if (!adopted) throw new Error('it runs');
  expect(digests(await proven(adopted)).slice(0, -1)).toEqual(digests(base));
  await expectRunning(adopted);
  // And by a third engine, with the pager that knows it.
  const again = await (await bench.engine('third')).adopt(vm.record, pager, true);
  expect(await again?.api.instance()).toMatchObject({ state: 'Paused' });
  if (again) await proven(again);
  await again?.kill();
  await adopted.kill();
});

test.each<[NonNullable<StandInConfig['fault']>, RegExp]>([
  ['vmstate_fails', /refused PUT \/snapshot\/create: .*told to fail/],
  ['no_handover', /handed over no memory: the peer said nothing/],
  ['odd_handover', /33550336 bytes instead of 33554432/],
])('a branch that fails by %s leaves a VM that runs, and that the other modes branch', async (fault, message) => {
  await bench.configure({ ...EXTENDED, fault });
  const [vm, base] = await child();
  for (let round = 0; round < 2; round += 1) {
    await expect(vm.branch({ mode: 'live', resume: true })).rejects.toMatchObject({
      message: expect.stringMatching(message) as string,
    });
    expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
  }
  expect(await readdir(vm.record.dir)).not.toContain('wp.sock');
  const done = await vm.branch({ mode: 'diff', resume: false });
  expect(differingPages(await bench.memoryIn(pager, digests(done)), await bench.memoryOf(vm.api))).toBe(0);
  expect(digests(done)).not.toEqual(digests(base));
  // A child of the same snapshot has nothing of what went wrong.
  await bench.configure(EXTENDED);
  await proven(await restore(base));
});

test('a VMM that ends inside the pause fails its branch, and nothing of it is left', async () => {
  await bench.configure({ ...EXTENDED, fault: 'exit_at_vmstate' });
  const [vm] = await child();
  await expect(vm.branch({ mode: 'live', resume: true })).rejects.toMatchObject({ code: 'vm_gone' });
  expect(await vm.exited).toMatchObject({ code: 148 });
  await vm.kill();
  expect(await opened(pager.pid, /userfaultfd|forkd-memory/)).toEqual([]);
  expect((await pager.inventory()).sandboxes).toEqual([]);
});

test('a restore that fails, or is given up, leaves no memory with the pager', async () => {
  const [vm, base] = await child();
  await vm.kill();
  await bench.configure({ ...EXTENDED, fault: 'exit_early' });
  await expect(restore(base)).rejects.toMatchObject({ code: 'vm_start_failed' });
  await bench.configure(EXTENDED);
  await expect(restore({ ...base, device_state: { digest: 'sha256:none', size: 0 } })).rejects.toMatchObject({
    code: 'vm_start_failed',
  });
  expect(await opened(pager.pid, /forkd-memory/)).toEqual([]);
  expect((await pager.inventory()).sandboxes).toEqual([]);
});

test('a branch that is given up leaves a VM that runs', async () => {
  const [vm] = await child();
  const giving = new AbortController();
  const reason = new Error('enough');
  const branching = vm.branch(
    { mode: 'live', resume: true },
    { signal: giving.signal, onEvent: ({ stage }) => stage === 'resumed' && giving.abort(reason) },
  );
  await branching.catch(() => undefined);
  await expectRunning(vm);
});

test('a VM with a memory limit, or without a userfaultfd on the host, has memory of its own, and says why', async () => {
  expect(capabilitiesOfVm(engine.capabilities, pager, undefined)).toMatchObject({ live: true, floor: true });
  expect(capabilitiesOfVm(engine.capabilities, pager, 64).live).toMatch(/^A VM with a memory limit has none/);
  const [, base] = await child();
  const machine = engine.machine(MEM_MIB, 1);
  const spec = { machine, stack: digests(base), deviceState: bench.blob(base.device_state.digest) };
  Object.assign(pager, { liveUnavailable: 'no such call' });
  const plain = await bench.keep(engine.restore({ ...bench.spec(pager), ...spec }));
  await expect(plain.branch({ mode: 'live', resume: true })).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringContaining('Live branches cannot be had here: no such call.') as string,
  });
  expect(await readFile(`/proc/${plain.record.pid}/maps`, 'utf8')).not.toContain('rw-s');
  await plain.branch({ mode: 'diff', resume: true });
});

/** Gives back what it is sent, as long as it is. */
const AGENT = `
import { createServer } from 'node:net';
createServer((socket) => socket.on('error', () => {}).pipe(socket)).listen(process.argv[3]);
`;

interface Sender {
  echoed: number;
  until(condition: (echoed: number) => boolean): Promise<void>;
  stop(): void;
}

/** Sends to the guest all the time, and connects again whenever it is cut off. */
function keepSending(vm: FirecrackerVm): Sender {
  let stopped = false;
  let wake = (): void => undefined;
  const sender: Sender = {
    echoed: 0,
    async until(condition) {
      while (!condition(sender.echoed)) await new Promise<void>((resolve) => (wake = resolve));
    },
    stop: () => {
      stopped = true;
    },
  };
  const open = (): void => {
    if (stopped) return;
    let greeted = false;
    const socket = connect(vm.agentSocket);
    socket.write(`CONNECT ${vm.agentPort}\n`);
    socket.on('error', () => undefined);
    socket.on('close', () => setTimeout(open, 1));
    socket.on('data', (data) => {
      if (stopped) return void socket.destroy();
      if (greeted) {
        sender.echoed += data.length;
        wake();
      }
      greeted = true;
      socket.write('x'.repeat(100));
    });
  };
  open();
  return sender;
}
