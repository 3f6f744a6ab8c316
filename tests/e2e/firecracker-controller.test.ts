/**
 * A controller that was started with `--engine firecracker`: templates, forks, pauses, branches, and what it finds of an earlier
 * one, a killed one included. Firecracker is its stand-in, which executes nothing: each VM's guest is a real agent in namespaces
 * of its own, so that what is shown is that each answers as itself, not that it remembers.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Sandbox } from '@forkd/sdk';
import {
  FirecrackerStandIn,
  forkOne,
  makeTemplate,
  REPO,
  shell,
  TestController,
  until,
  whyNoGuest,
} from '@forkd/testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';

const ARGS = ['--engine', 'firecracker'];
const WAIT_MS = 30_000;
/** A fork takes some tens of ms: these fall into each of its steps. */
const MOMENTS_MS = [5, 20, 40, 80];

const noGuest = whyNoGuest();
const run = promisify(execFile);

describe('a controller that runs Firecracker', () => {
  let standIn: FirecrackerStandIn;
  let controller: TestController;

  beforeAll(async () => {
    if (noGuest !== undefined) return;
    standIn = await FirecrackerStandIn.open();
    controller = await TestController.start({ args: ARGS, env: standIn.env });
    await makeTemplate(controller.client);
  });

  afterAll(async () => {
    await controller?.[Symbol.asyncDispose]();
    await standIn?.[Symbol.asyncDispose]();
  });

  beforeEach(({ skip, onTestFailed }) => {
    skip(noGuest !== undefined, noGuest);
    onTestFailed(() => console.error(controller.log));
  });

  afterEach(async () => {
    if (noGuest !== undefined) return;
    for (const { id } of await controller.client.listSandboxes()) await controller.client.deleteSandbox(id);
    await until('no VMM and no directory is left', WAIT_MS, async () => {
      const [dirs, vmms] = await Promise.all([controller.sandboxDirs(), controller.pids('vmm')]);
      return dirs.length === 0 && vmms.length === 0;
    });
  });

  const restart = async (): Promise<void> => controller.serve(ARGS, { env: standIn.env });

  test('starts forks that each answer as themselves', async () => {
    const { client } = controller;
    const children = await client.createSandboxes({ snapshot_tag: 'base', n: 3 });
    expect(new Set(children.map(({ pid }) => pid)).size).toBe(3);
    await Promise.all(children.map(({ id }) => shell(client, id, `echo ${id} > /tmp/own`)));
    for (const { id } of children) expect(await shell(client, id, 'cat /tmp/own')).toBe(id);
    const [first = expect.fail()] = children;
    const { private_bytes, shared_bytes } = await client.memory(first.id);
    expect(private_bytes).toBeGreaterThan(0);
    expect(shared_bytes).toBeGreaterThan(0);
  });

  test('keeps a paused sandbox paused across a restart until it is resumed', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    expect((await client.pauseSandbox(id)).state).toBe('paused');
    await expect(client.exec(id, { args: ['true'] })).rejects.toMatchObject({ code: 'sandbox_paused' });
    await client.branch(id, { tag: 'still', mode: 'diff' });
    await controller.stop();
    await restart();
    expect((await client.getSandbox(id)).state).toBe('paused');
    expect((await client.resumeSandbox(id)).state).toBe('running');
    expect(await shell(client, id, 'echo again')).toBe('again');
    await client.deleteSnapshot('still');
  });

  test('stacks branches of both modes, even when the snapshot below was removed', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    for (const [index, mode] of (['diff', 'full', 'diff', 'diff'] as const).entries()) {
      const tag = `branch-${index}`;
      expect(await client.branch(id, { tag, mode })).toMatchObject({ tag, status: 'ready', durable: true });
      const child = await forkOne(client, tag);
      expect(await shell(client, child, 'echo child')).toBe('child');
      await client.deleteSandbox(child);
      await client.deleteSnapshot(tag);
      expect(await shell(client, id, 'echo source')).toBe('source');
    }
  });

  test('keeps a guest command running through a branch that cuts its connection', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    const { id: command } = await client.startCommand(id, { args: ['sleep', '600'] });
    await client.branch(id, { tag: 'cut', mode: 'diff' });
    expect(await client.getCommand(id, command)).toMatchObject({ running: true });
    await client.deleteSnapshot('cut');
  });

  test('refuses what Firecracker cannot do with the reason, before anything is touched', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    const { engine } = await client.host();
    const reasons = new Map(engine.capabilities.map((can) => [can.id, can.why]));
    const refused = (why: string) => ({ status: 400, code: 'unsupported', message: expect.stringContaining(why) });
    const live = reasons.get('live') ?? expect.fail('this stand-in has no live branches');
    expect(engine).toMatchObject({ name: 'firecracker', live_unavailable: live });
    await expect(client.branch(id, { tag: 'live', mode: 'live' })).rejects.toMatchObject(refused(live));
    await expect(client.floor(id)).rejects.toMatchObject(refused(reasons.get('floor') ?? ''));
    const limit = reasons.get('memory_limit');
    if (typeof limit === 'string') {
      const limited = client.createSandboxes({ snapshot_tag: 'base', memory_limit_mib: 512 });
      await expect(limited).rejects.toMatchObject(refused(limit));
    }
    expect((await client.listSnapshots()).map(({ tag }) => tag)).toEqual(['base']);
    expect((await client.listSandboxes()).map((sandbox) => sandbox.id)).toEqual([id]);
    expect((await client.getSandbox(id)).has_branched).toBe(false);
  });

  test('falls back to an available branch mode when the caller names none', async () => {
    const { client } = controller;
    const sandbox = await Sandbox.connect(await forkOne(client), { client });
    const branch = await sandbox.branch({ tag: 'either' });
    expect(branch.info).toMatchObject({ tag: 'either', status: 'ready' });
    await expect(sandbox.branch({ mode: 'live' })).rejects.toMatchObject({ code: 'unsupported' });
    const env = { ...process.env, FORKD_URL: `unix:${controller.socket}` };
    const args = [
      join(REPO, 'packages/cli/bundle/forkd.js'),
      'snapshot',
      '--from-sandbox',
      sandbox.id,
      '--tag',
      'told',
    ];
    const { stdout, stderr } = await run(process.execPath, args, { env });
    expect(stdout).toBe('told\n');
    expect(stderr).toMatch(/this build lacks .*\. The source is paused while its changes are copied\.\ndiff branch of/);
    await expect(run(process.execPath, [...args.slice(0, -1), 'early', '--no-wait'], { env })).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('this build lacks') as string,
    });
    for (const tag of ['told', 'either']) await client.deleteSnapshot(tag);
  });

  test('hands running sandboxes to the next controller and the next pager, even after a kill', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    const { pid } = await client.getSandbox(id);
    await shell(client, id, 'echo mine > /tmp/mark');
    await controller.kill9();
    await restart();
    expect(await client.getSandbox(id)).toMatchObject({ pid, state: 'running' });
    expect(await shell(client, id, 'cat /tmp/mark')).toBe('mine');
    await client.branch(id, { tag: 'after', mode: 'diff' });
    const [lost] = await controller.pids('pager');
    await controller.killOnly('pager');
    await until('another pager is up', WAIT_MS, async () => {
      const pids = await controller.pids('pager');
      return pids.length === 1 && pids[0] !== lost;
    });
    // The controller takes its VMs to the next one, and connects to their guests anew: a command of that moment is cut off.
    await until('the guest answers', WAIT_MS, async () => {
      const mark = await shell(client, id, 'cat /tmp/mark').catch(() => null);
      return mark === 'mine';
    });
    await client.branch(id, { tag: 'later', mode: 'diff' });
    await client.deleteSandbox(await forkOne(client, 'later'));
    for (const tag of ['later', 'after']) await client.deleteSnapshot(tag);
  });

  test('drops the sandbox of a VMM that was killed', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    process.kill((await client.getSandbox(id)).pid ?? expect.fail('it runs'), 'SIGKILL');
    await until('it is gone', WAIT_MS, async () => {
      const running = await client.listSandboxes();
      return !running.some((sandbox) => sandbox.id === id);
    });
  });

  test.each(MOMENTS_MS)('leaves nothing half-made when it is killed %i ms into a fork', async (moment) => {
    const fork = controller.client.createSandboxes({ snapshot_tag: 'base', n: 2 }).catch(() => undefined);
    await delay(moment);
    await controller.kill9();
    await fork;
    await restart();
    const listed = await controller.client.listSandboxes();
    for (const { id } of listed) expect(await shell(controller.client, id, 'echo here')).toBe('here');
    expect((await controller.sandboxDirs()).toSorted()).toEqual(listed.map(({ id }) => id).toSorted());
  });

  test('leaves sandboxes and snapshots that a QEMU controller refuses with the name of the engine', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    await controller.stop();
    const qemu = () => controller.serve([], { env: { FORKD_ENGINE: 'qemu' } });
    await expect(qemu()).rejects.toThrow(
      new RegExp(
        `Sandboxes run with firecracker, and this controller is to run qemu: ${id}\\.[^]*--engine firecracker`,
      ),
    );
    await restart();
    expect(await shell(client, id, 'echo unharmed')).toBe('unharmed');
    await client.deleteSandbox(id);
    await controller.stop();
    await qemu();
    await expect(client.createSandboxes({ snapshot_tag: 'base' })).rejects.toMatchObject({
      status: 409,
      code: 'machine_mismatch',
      message: expect.stringMatching(/'base' was taken with firecracker 1\.13\.1 .*, and this controller runs qemu /),
      hint: expect.stringContaining('--engine firecracker'),
    });
    await controller.stop();
    await restart();
  });
});
