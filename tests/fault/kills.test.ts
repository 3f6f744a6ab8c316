/**
 * kill -9 of QEMU, the pager and the controller, at moments spread over a fork and over a branch: the error is clear, what
 * lives on is found again, and nothing is left behind: no process, no socket, no half-written file.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { forkOne, installedStorm, shell, type TestController, until } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { afterEach, describe, expect } from 'vitest';

/** A fork takes some hundred ms here and a branch with this much to capture some tens: these fall before, into and after them. */
const MOMENTS_MS = [0, 2, 5, 10, 20, 40, 80, 160, 320];
const WAIT_MS = 30_000;

describe('kill -9', () => {
  let controller: TestController;

  test.beforeAll(({ controller: started }) => {
    controller = started;
  });

  afterEach(async ({ onTestFailed }) => {
    onTestFailed(() => console.error(controller.log));
    await expectClean();
  });

  test('of QEMU: the sandbox disappears, a request that waits for it is told', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    const waiting = client.exec(id, { args: ['sleep', '60'], timeout_secs: 60 });
    const told = waiting.then(
      () => undefined,
      (error: unknown) => error,
    );
    await until('the command runs', WAIT_MS, async () => (await client.listCommands(id)).length > 0);
    await controller.killOnly('vmm');
    expect(await told).toMatchObject({ message: expect.stringContaining(id) });
    await expectGone(id);
  });

  test.each(MOMENTS_MS)(
    'of QEMU %i ms into a branch: the snapshot is whole or failed with the reason',
    async (moment) => {
      const { client } = controller;
      const id = await forkOne(client);
      await installedStorm(client, id, 24);
      const tag = `vmm-${moment}`;
      const branch = client.branch(id, { tag, mode: 'live' }).catch((error: unknown) => error);
      await delay(moment);
      await controller.killOnly('vmm');
      await branch;
      await expectWholeOrFailed(tag);
      await expectGone(id);
    },
  );

  test.each(MOMENTS_MS)(
    'of the pager %i ms into a branch: the source runs on and can be branched again',
    async (moment) => {
      const { client } = controller;
      const id = await forkOne(client);
      const storm = await installedStorm(client, id, 24);
      const tag = `pager-${moment}`;
      const branch = client.branch(id, { tag, mode: 'live' }).catch((error: unknown) => error);
      await delay(moment);
      await controller.killOnly('pager');
      await branch;
      await expectWholeOrFailed(tag);
      await until('the guest answers again', WAIT_MS, () => answers(id));
      expect(await storm.next()).toMatchObject({ errors: 0 });
      await client.branch(id, { tag: `again-${moment}`, mode: 'live' });
      await client.deleteSandbox(await forkOne(client, `again-${moment}`));
      await client.deleteSandbox(id);
    },
  );

  test.each(MOMENTS_MS)('of the controller %i ms into a branch: the next one finds the sandbox', async (moment) => {
    const { client } = controller;
    const id = await forkOne(client);
    const storm = await installedStorm(client, id, 24);
    const tag = `controller-${moment}`;
    const branch = client.branch(id, { tag, mode: 'live' }).catch((error: unknown) => error);
    await delay(moment);
    await controller.kill9();
    await branch;
    await controller.serve();
    expect((await client.listSandboxes()).map((sandbox) => sandbox.id)).toEqual([id]);
    expect(await storm.next()).toMatchObject({ errors: 0 });
    // What was not complete is not there at all: nobody was told of it.
    await expectWholeOrFailed(tag);
    await client.deleteSandbox(id);
  });

  test.each(MOMENTS_MS)('of a QEMU %i ms into a fork: none is kept, and the error says so', async (moment) => {
    const { client } = controller;
    const fork = client.createSandboxes({ snapshot_tag: 'base', n: 3 }).then(
      (children) => ({ children, error: undefined }),
      (error: unknown) => ({ children: [], error }),
    );
    await delay(moment);
    const [victim] = await controller.pids('vmm');
    if (victim !== undefined) process.kill(victim, 'SIGKILL');
    const { children, error } = await fork;
    if (error === undefined) expect(children).toHaveLength(3);
    else
      expect(error).toMatchObject({ message: expect.stringMatching(/base.*none was kept/), code: expect.any(String) });
    await Promise.all(children.map(({ id }) => client.deleteSandbox(id).catch(() => undefined)));
  });

  test.each(MOMENTS_MS)('of the pager %i ms into a fork: all children or a clear error', async (moment) => {
    const { client } = controller;
    const fork = client.createSandboxes({ snapshot_tag: 'base', n: 2 }).then(
      (children) => ({ children, error: undefined }),
      (error: unknown) => ({ children: [], error }),
    );
    await delay(moment);
    await controller.killOnly('pager');
    const { children, error } = await fork;
    if (error !== undefined)
      expect(error).toMatchObject({ message: expect.stringContaining('base'), code: expect.any(String) });
    else expect(children).toHaveLength(2);
    for (const { id } of children) {
      await until('the guest answers again', WAIT_MS, () => answers(id));
      await client.deleteSandbox(id);
    }
    await client.deleteSandbox(await forkOne(client));
  });

  test.each(MOMENTS_MS)(
    'of the controller %i ms into a fork: what is half-made is gone, what runs is found',
    async (moment) => {
      const { client } = controller;
      const fork = client.createSandboxes({ snapshot_tag: 'base', n: 2 }).catch((error: unknown) => error);
      await delay(moment);
      await controller.kill9();
      await fork;
      await controller.serve();
      const found = await client.listSandboxes();
      expect(await controller.pids('vmm')).toHaveLength(found.length);
      expect(await controller.sandboxDirs()).toHaveLength(found.length);
      for (const { id } of found) {
        expect(await shell(client, id, 'hostname')).toBe(id);
        await client.deleteSandbox(id);
      }
    },
  );

  test('of controller and pager at once: sandboxes run on and are found', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    const storm = await installedStorm(client, id, 8);
    await controller.kill9();
    await controller.killOnly('pager');
    await controller.serve();
    expect((await client.listSandboxes()).map((sandbox) => sandbox.id)).toEqual([id]);
    expect(await storm.next()).toMatchObject({ errors: 0 });
    await client.branch(id, { tag: 'after-both', mode: 'live' });
    await client.deleteSandbox(await forkOne(client, 'after-both'));
    await client.deleteSandbox(id);
  });

  async function answers(id: string): Promise<boolean> {
    return shell(controller.client, id, 'echo yes').then(
      (text) => text === 'yes',
      () => false,
    );
  }

  /** Whether a request's failure or the process' end is noticed first is a matter of luck. */
  async function expectGone(id: string): Promise<void> {
    const { client } = controller;
    await until(`${id} has left the list`, WAIT_MS, async () => (await client.listSandboxes()).length === 0);
    await expect(client.getSandbox(id)).rejects.toMatchObject({ status: 404 });
  }

  async function expectWholeOrFailed(tag: string): Promise<void> {
    const { client } = controller;
    const found = (await client.listSnapshots()).find((snapshot) => snapshot.tag === tag);
    if (!found) return;
    if (found.status === 'failed') expect(found.error).toMatch(/\w/);
    else await expectForkable(tag);
    await client.deleteSnapshot(tag);
  }

  /** Whoever asks in the moment in which a pager has ended and nobody has noticed is told so, and can ask again. */
  async function expectForkable(tag: string): Promise<void> {
    const { client } = controller;
    let id: string | undefined;
    await until(`a child of ${tag} runs`, WAIT_MS, async () => {
      id = await forkOne(client, tag).catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'pager_unavailable' });
        return undefined;
      });
      return id !== undefined;
    });
    if (id !== undefined) await client.deleteSandbox(id);
  }

  async function expectClean(): Promise<void> {
    const { client } = controller;
    expect(await client.listSandboxes()).toEqual([]);
    // One that has just died leaves the list at once, and is cleared away right after.
    await until('no VMM is left', WAIT_MS, async () => (await controller.pids('vmm')).length === 0);
    await until('no directory is left', WAIT_MS, async () => (await controller.sandboxDirs()).length === 0);
    expect(await controller.pids('pager')).toHaveLength(1);
    await until('no half-written file is left', WAIT_MS, async () => (await controller.ingested()).length === 0);
    for (const { tag } of await client.listSnapshots()) if (tag !== 'base') await client.deleteSnapshot(tag);
    await until('the pager holds no layer but the template', WAIT_MS, async () => (await controller.heldLayers()) <= 1);
  }
});
