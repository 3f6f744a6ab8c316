/**
 * Live branches of a Firecracker with the extensions, in whose place the stand-in is: its threads write all over its memory, which is in two
 * regions, all the time. Each image is held, byte for byte, against a copy that is made inside the pause, or against what the paused VM
 * itself writes down.
 */

import { once } from 'node:events';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { expect } from 'vitest';
import { announcement, capabilitiesOfVm } from '../src/firecracker/live.ts';
import type { FirecrackerVm } from '../src/firecracker/vm.ts';
import { EXTENDED, expectRunning, type LiveBench, opened, PAGES, proven, test } from './firecracker-live-support.ts';
import { differingPages, digests, MEM_BYTES, MEM_MIB } from './firecracker-support.ts';

let live: LiveBench;

test.beforeEach(({ live: made }) => {
  live = made;
});

test('five branches of a writing VM each have the memory of their instant', async () => {
  const [vm, base] = await live.child();
  const maps = (await readFile(`/proc/${vm.record.pid}/maps`, 'utf8')).split('\n');
  const shared = maps.filter((line) => /rw-s .*forkd-memory/.test(line));
  expect(shared).toHaveLength(2);
  // The VM alone has its memory now.
  expect(await opened(live.pager.pid, /forkd-memory/)).toEqual([]);
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
  // The audit has read all of it, and so all of it is there: the VM's own.
  const { private_bytes, shared_bytes } = await vm.memory();
  expect(private_bytes).toBeGreaterThanOrEqual(MEM_BYTES);
  expect(private_bytes).toBeLessThan(MEM_BYTES * 1.5);
  expect(shared_bytes).toBeLessThan(MEM_BYTES / 2);
  expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
  const done = await proven(vm, false);
  expect(await vm.api.instance()).toMatchObject({ state: 'Paused' });
  expect(differingPages(await live.bench.memoryIn(live.pager, digests(done)), await live.bench.memoryOf(vm.api))).toBe(
    0,
  );
});

test('a booted VM and three generations of children are branched live, and in diff and full mode', async () => {
  let vm = await live.bench.boot(live.engine, live.pager);
  let done = await proven(vm);
  expect(done.stack).toHaveLength(1);
  for (let depth = 2; depth <= 4; depth += 1) {
    vm = await live.restore(done);
    const next = await proven(vm);
    expect(digests(next).slice(0, -1)).toEqual(digests(done));
    expect(next.stack).toHaveLength(depth);
    done = next;
  }
  for (const mode of ['diff', 'full', 'live', 'diff'] as const) {
    const other = await vm.branch({ mode, resume: false });
    expect(
      differingPages(await live.bench.memoryIn(live.pager, digests(other)), await live.bench.memoryOf(vm.api)),
    ).toBe(0);
    await vm.resume();
  }
  expect((await vm.floor()).pause_us).toBeGreaterThan(0);
  await expectRunning(vm);
});

test('a VM that is paused is branched and stays paused', async () => {
  const [vm] = await live.child();
  await vm.pause();
  const [one, two] = [await proven(vm), await proven(vm)];
  expect(await vm.api.instance()).toMatchObject({ state: 'Paused' });
  expect(digests(two)).toEqual(digests(one));
  await vm.resume();
  await expectRunning(vm);
});

test('data sent to the guest during a branch is in both its memory and its device, or in neither', async () => {
  const agent = join(live.bench.dir, 'agent.mjs');
  await writeFile(agent, `#!${process.execPath}\n${AGENT}`);
  await chmod(agent, 0o700);
  await live.bench.configure({ ...EXTENDED, agent });
  const [vm] = await live.child();
  const sender = keepSending(vm);
  try {
    let last = 0;
    for (let round = 0; round < 8; round += 1) {
      await sender.until((echoed) => echoed > last);
      last = sender.echoed;
      const done = await proven(vm);
      const memory = await live.bench.memoryIn(live.pager, digests(done));
      const state = JSON.parse((await readFile(live.bench.blob(done.device_state.digest))).subarray(12).toString()) as {
        received: number;
      };
      expect(state.received).toBeGreaterThan(0);
      expect(Number(memory.readBigUInt64LE(0))).toBe(state.received);
    }
  } finally {
    sender.stop();
  }
});

test('the pager keeps a userfaultfd for the next branch, unless a VMM would wait for it to be read', async () => {
  const [silent] = await live.child();
  await live.bench.configure({ ...EXTENDED, fault: 'talkative_handover' });
  const [talkative] = await live.child();
  // Both have handed over theirs before they ran, and one was kept.
  expect(await opened(live.pager.pid, /userfaultfd/)).toHaveLength(1);
  for (const vm of [talkative, talkative, silent, silent]) {
    await proven(vm);
    expect(await opened(live.pager.pid, /userfaultfd/)).toHaveLength(1);
  }
  // Of the memory itself it keeps nothing.
  expect(await opened(live.pager.pid, /forkd-memory/)).toEqual([]);
});

test('a pause takes exactly three requests', async () => {
  const [vm] = await live.child();
  const { id, dir } = vm.record;
  const asked: string[] = [];
  const proxy = createServer((client) => {
    const api = connect(join(dir, 'api.sock'));
    client.on('data', (data) => asked.push(...(data.toString('latin1').match(/^(GET|PUT|PATCH) \S+/gm) ?? [])));
    client.pipe(api).pipe(client);
    client.on('close', () => api.destroy()).on('error', () => undefined);
    api.on('error', () => undefined);
  });
  proxy.listen(join(dir, 'proxy.sock'));
  await once(proxy, 'listening');
  try {
    await live.pager.release(id);
    await live.pager.announce({ ...announcement(vm.record), monitor_socket: join(dir, 'proxy.sock') });
    await live.pager.open(id);
    await live.pager.branch({ sandbox: id, mode: 'live', resume: true, audit: false });
    const pause = asked.slice(asked.indexOf('PATCH /vm'));
    expect(pause).toEqual(['PATCH /vm', 'PUT /snapshot/create', 'PATCH /vm']);
  } finally {
    proxy.close();
  }
});

test('a VM with a memory limit or without userfaultfd has memory of its own, and gives the reason', async () => {
  expect(capabilitiesOfVm(live.engine.capabilities, live.pager, undefined)).toMatchObject({ live: true, floor: true });
  expect(capabilitiesOfVm(live.engine.capabilities, live.pager, 64).live).toMatch(/^A VM with a memory limit has none/);
  const [, base] = await live.child();
  const machine = live.engine.machine(MEM_MIB, 1);
  const spec = { machine, stack: digests(base), deviceState: live.bench.blob(base.device_state.digest) };
  Object.assign(live.pager, { liveUnavailable: 'no such call' });
  const plain = await live.bench.keep(live.engine.restore({ ...live.bench.spec(live.pager), ...spec }));
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
