/** The pager as its clients meet it: started once however many ask, clear about wrong requests, and not brought down by any. */
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { type Caller, Pager, QemuEngine } from '@forkd/engine';
import { BUILT, requireBuilt, until } from '@forkd/testing';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

const WAIT_MS = 30_000;

describe('the pager', () => {
  let dir: string;
  let pager: Pager;

  const ensure = (): Promise<Pager> =>
    Pager.ensure({ bin: BUILT.pager, runDir: join(dir, 'run'), storeDir: join(dir, 'store') });

  const newEngine = (): Promise<QemuEngine> =>
    QemuEngine.create({ cacheDir: dir, shim: BUILT.shim, jail: BUILT.jail, pager, accelerator: 'tcg' });

  beforeEach(async () => {
    await requireBuilt();
    dir = await mkdtemp('/tmp/fk-');
    pager = await ensure();
  });

  afterEach(async () => {
    await pager.shutdown().catch(() => undefined);
    await rm(dir, { recursive: true, force: true });
  });

  test('is started once, however many clients ask at the same time', async () => {
    await pager.shutdown();
    const all = await Promise.all(Array.from({ length: 6 }, ensure));
    expect(new Set(all.map(({ pid }) => pid)).size).toBe(1);
    pager = all[0] ?? pager;
  });

  test('names the unknown layer or sandbox in its error', async () => {
    const announce = (stack: string[]) =>
      pager.announce({
        sandbox: 'x',
        mem_bytes: 2 ** 20,
        stack,
        monitor_socket: join(dir, 'm'),
        chardev_socket: join(dir, 'c'),
        agent_socket: join(dir, 'a'),
        caller: { key: 'k' },
      });
    const digest = `sha256:${'0'.repeat(64)}`;
    await expect(announce([digest])).rejects.toMatchObject({
      code: 'unknown_layer',
      message: expect.stringContaining(digest),
    });
    await expect(announce(['ram:7'])).rejects.toMatchObject({ code: 'unknown_layer' });
    await expect(announce(['sha256:../../x'])).rejects.toMatchObject({ code: 'bad_request' });
    await expect(pager.memory('nobody')).rejects.toMatchObject({
      code: 'unknown_sandbox',
      message: expect.stringContaining('nobody'),
    });
    await announce([]);
    await expect(announce([])).rejects.toMatchObject({ code: 'bad_request' });
    const branch = pager.branch({ sandbox: 'x', mode: 'live', resume: true, audit: false });
    await expect(branch).rejects.toMatchObject({ code: 'vm_gone' });
    await pager.release('x');
    expect((await pager.inventory()).sandboxes).toEqual([]);
  });

  test.each([
    ['no JSON', 'nonsense\n'],
    ['an unknown request', '{"id":1,"op":"explode"}\n'],
    ['numbers out of range', '{"id":1,"op":"announce","sandbox":"x","mem_bytes":-1,"stack":[]}\n'],
    ['a line without end', 'x'.repeat(3 * 2 ** 20)],
  ])('survives %s', async (_what, text) => {
    const socket = connect(join(dir, 'run/pager.sock'));
    let answer = '';
    socket.on('data', (bytes: Buffer) => (answer += bytes.toString()));
    socket.on('error', () => undefined);
    socket.write(text);
    await until('it answers or hangs up', 5_000, () =>
      Promise.resolve(answer.includes('bad_request') || socket.destroyed),
    );
    socket.destroy();
    expect(await pager.inventory()).toEqual({ layers: [], sandboxes: [] });
  });

  test('tells its clients when it ends, and is replaced by the next one', async () => {
    process.kill(pager.pid, 'SIGKILL');
    await pager.gone;
    await expect(pager.inventory()).rejects.toMatchObject({ code: 'pager_gone' });
    const next = await ensure();
    expect(next.pid).not.toBe(pager.pid);
    pager = next;
  });

  test('is reported missing by the path of its program', async () => {
    const runDir = join(dir, 'other');
    await mkdir(runDir);
    const missing = Pager.ensure({ bin: '/nowhere/forkd-pager', runDir, storeDir: join(dir, 'store') });
    await expect(missing).rejects.toMatchObject({
      code: 'pager_missing',
      message: expect.stringContaining('/nowhere/forkd-pager'),
    });
  });

  test('gives no memory to a VMM that was not announced, which then does not run', async () => {
    const engine = await newEngine();
    const machine = engine.machine(64, 1);
    const spec = {
      id: 'x',
      dir: join(dir, 'x'),
      rootImage: '/dev/null',
      pager,
      machine,
      deviceState: '/dev/null',
    };
    // The shim calls another socket than that of the pager that knows the VM.
    Object.defineProperty(pager, 'shimSocket', { value: join(dir, 'nobody.sock') });
    const start = engine.restore({ ...spec, stack: [] });
    await expect(start).rejects.toMatchObject({
      code: 'vm_start_failed',
      hint: expect.stringContaining('nobody.sock'),
    });
    expect((await pager.inventory()).sandboxes).toEqual([]);
  });

  /** A call as a shim's, of this process. Resolves with what comes back first; empty when it is hung up on. */
  function call(hello: object): Promise<{ socket: Socket; answer: Buffer }> {
    const socket = connect(pager.shimSocket);
    socket.write(`${JSON.stringify({ protocol: 9, key: 'k', ...hello })}\n`);
    return new Promise((resolve) => {
      socket.once('data', (answer: Buffer) => resolve({ socket, answer }));
      socket.once('close', () => resolve({ socket, answer: Buffer.alloc(0) }));
      socket.on('error', () => undefined);
    });
  }

  function announceTo(sandbox: string, caller: Caller): Promise<void> {
    const [monitor_socket, chardev_socket, agent_socket] = ['m', 'c', 'a'].map((name) => join(dir, name)) as [
      string,
      string,
      string,
    ];
    return pager.announce({
      sandbox,
      mem_bytes: 2 ** 20,
      stack: [],
      monitor_socket,
      chardev_socket,
      agent_socket,
      caller,
    });
  }

  const memory = JSON.stringify([{ base_host_virt_addr: 2 ** 20, size: 2 ** 20, offset: 0, page_size: 4096 }]);

  async function attachedPid(sandbox: string): Promise<number | null | undefined> {
    return (await pager.inventory()).sandboxes.find((held) => held.sandbox === sandbox)?.pid;
  }

  test('gives the memory of a VM to the first process with its key, and to no other after that', async () => {
    await announceTo('x', { key: 'right' });
    expect((await call({ sandbox: 'x', key: 'wrong', wants: 'plan' })).answer).toHaveLength(0);
    const { socket, answer } = await call({ sandbox: 'x', key: 'right', wants: 'plan' });
    expect(answer.length).toBeGreaterThan(0);
    socket.write(memory);
    await until('it is attached', WAIT_MS, async () => (await attachedPid('x')) === process.pid);
    await announceTo('y', { pid: process.ppid });
    expect((await call({ sandbox: 'y', wants: 'plan' })).answer).toHaveLength(0);
    socket.destroy();
  });

  test('accepts only the announced process as a VMM, even if another called before', async () => {
    const { socket } = await call({ sandbox: 'x', wants: 'nothing' });
    socket.write(memory);
    await announceTo('x', { pid: process.ppid });
    // Answered after the call was: what came of it can be seen.
    await announceTo('y', { pid: process.pid });
    const again = await call({ sandbox: 'y', wants: 'nothing' });
    again.socket.write(memory);
    await until('the right one is attached', WAIT_MS, async () => (await attachedPid('y')) === process.pid);
    expect(await attachedPid('x')).toBeNull();
    socket.destroy();
    again.socket.destroy();
  });

  test('refuses a VMM whose memory differs in size from the announcement', async () => {
    await announceTo('x', { pid: process.pid });
    const { socket } = await call({ sandbox: 'x', wants: 'nothing' });
    const closed = once(socket, 'close');
    socket.write(memory.replace(`"size":${2 ** 20}`, `"size":${2 ** 40}`));
    socket.resume();
    await closed;
    expect(await attachedPid('x')).toBeNull();
  });

  test('answers a bounded number of simultaneous calls of one process', async () => {
    const calls = [];
    for (let index = 0; index < 4; index += 1) calls.push(await call({ sandbox: `early-${index}`, wants: 'nothing' }));
    expect(calls.map(({ answer }) => answer.length > 0)).toEqual([true, true, true, true]);
    expect((await call({ sandbox: 'early-4', wants: 'nothing' })).answer).toHaveLength(0);
    for (const { socket } of calls) socket.destroy();
    await until('there is room again', WAIT_MS, async () => {
      const { socket, answer } = await call({ sandbox: 'early-4', wants: 'nothing' });
      socket.destroy();
      return answer.length > 0;
    });
  });

  test('starts nothing in a directory whose socket paths would be too long', async () => {
    const engine = await newEngine();
    const long = join(dir, 'd'.repeat(100));
    const spec = {
      id: 'x',
      dir: long,
      rootImage: '/dev/null',
      pager,
      machine: engine.machine(64, 1),
      deviceState: '/dev/null',
    };
    await expect(engine.restore({ ...spec, stack: [] })).rejects.toMatchObject({ code: 'path_too_long' });
    expect((await pager.inventory()).sandboxes).toEqual([]);
  });
});
