/** The pager as its clients meet it: started once however many ask, clear about wrong requests, and not brought down by any. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Pager, QemuEngine } from '@forkd/engine';
import { BUILT, requireBuilt } from '@forkd/lab';
import { until } from '@forkd/testing';

describe('the pager', () => {
  let dir: string;
  let pager: Pager;

  const ensure = (): Promise<Pager> =>
    Pager.ensure({ bin: BUILT.pager, runDir: path.join(dir, 'run'), storeDir: path.join(dir, 'store') });

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

  it('is one, however many ask for it at the same time', async () => {
    await pager.shutdown();
    const all = await Promise.all(Array.from({ length: 6 }, ensure));
    expect(new Set(all.map(({ pid }) => pid)).size).toBe(1);
    pager = all[0] ?? pager;
  });

  it('names what it does not know', async () => {
    const announce = (stack: string[]) =>
      pager.announce({
        sandbox: 'x',
        mem_bytes: 2 ** 20,
        stack,
        monitor_socket: path.join(dir, 'm'),
        chardev_socket: path.join(dir, 'c'),
        agent_socket: path.join(dir, 'a'),
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

  it.each([
    ['no JSON', 'nonsense\n'],
    ['an unknown request', '{"id":1,"op":"explode"}\n'],
    ['numbers out of range', '{"id":1,"op":"announce","sandbox":"x","mem_bytes":-1,"stack":[]}\n'],
    ['a line without end', 'x'.repeat(3 * 2 ** 20)],
  ])('outlives %s', async (_what, text) => {
    const socket = connect(path.join(dir, 'run/pager.sock'));
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

  it('tells its clients when it ends, and the next one takes its place', async () => {
    process.kill(pager.pid, 'SIGKILL');
    await pager.gone;
    await expect(pager.inventory()).rejects.toMatchObject({ code: 'pager_gone' });
    const next = await ensure();
    expect(next.pid).not.toBe(pager.pid);
    pager = next;
  });

  it('is asked for with a program that is not there: the error names the program', async () => {
    const runDir = path.join(dir, 'other');
    await mkdir(runDir);
    const missing = Pager.ensure({ bin: '/nowhere/forkd-pager', runDir, storeDir: path.join(dir, 'store') });
    await expect(missing).rejects.toMatchObject({
      code: 'pager_missing',
      message: expect.stringContaining('/nowhere/forkd-pager'),
    });
  });

  it('gives no memory to a VMM that nobody announced: the VMM does not run', async () => {
    const engine = await newEngine();
    const machine = engine.machine(64, 1);
    const spec = {
      id: 'x',
      dir: path.join(dir, 'x'),
      rootImage: '/dev/null',
      pager,
      machine,
      deviceState: '/dev/null',
    };
    // What its shim calls is not the pager that it was announced to.
    Object.defineProperty(pager, 'shimSocket', { value: path.join(dir, 'nobody.sock') });
    const start = engine.restore({ ...spec, stack: [] });
    await expect(start).rejects.toMatchObject({
      code: 'vm_start_failed',
      hint: expect.stringContaining('nobody.sock'),
    });
    expect((await pager.inventory()).sandboxes).toEqual([]);
  });

  it('a directory whose sockets would have too long a path is refused before anything is started', async () => {
    const engine = await newEngine();
    const long = path.join(dir, 'd'.repeat(100));
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
