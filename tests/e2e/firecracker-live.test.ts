/**
 * A controller whose Firecracker has the live extensions: live branches over its API, with a real agent behind the channel that passes the
 * pager's gate; the same after the controller and the pager were killed. That each image is right, packages/engine/test shows.
 */

import { FirecrackerStandIn, forkOne, makeTemplate, shell, TestController, until, whyNoGuest } from '@forkd/testing';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

const ARGS = ['--engine', 'firecracker'];
const WAIT_MS = 30_000;

const noGuest = whyNoGuest();

describe('a controller that runs Firecracker with the live extensions', () => {
  let standIn: FirecrackerStandIn;
  let controller: TestController;

  beforeAll(async () => {
    if (noGuest !== undefined) return;
    standIn = await FirecrackerStandIn.open({ extensions: true });
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

  /** A live branch, its child, and that both answer. */
  async function branchLive(id: string, tag: string): Promise<void> {
    const { client } = controller;
    const done = await client.branch(id, { tag, mode: 'live' });
    expect(done).toMatchObject({ tag, status: 'ready', durable: true });
    const child = await forkOne(client, tag);
    expect(await shell(client, child, 'echo child')).toBe('child');
    expect(await shell(client, id, 'echo source')).toBe('source');
    await client.deleteSandbox(child);
  }

  test('branches sandboxes and their children live, and leaves a paused one paused', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    await branchLive(id, 'one');
    await branchLive(id, 'two');
    const child = await forkOne(client, 'two');
    await branchLive(child, 'three');
    await client.pauseSandbox(child);
    await client.branch(child, { tag: 'paused', mode: 'live' });
    expect(await client.getSandbox(child)).toMatchObject({ state: 'paused' });
    await client.resumeSandbox(child);
    expect(await shell(client, child, 'echo again')).toBe('again');
    expect((await client.floor(child)).pause_us).toBeGreaterThan(0);
  });

  test('hands running sandboxes to the next controller and the next pager, which branch them live', async () => {
    const { client } = controller;
    const id = await forkOne(client);
    const { pid } = await client.getSandbox(id);
    await shell(client, id, 'echo mine > /tmp/mark');
    await controller.kill9();
    await controller.serve(ARGS, { env: standIn.env });
    expect(await client.getSandbox(id)).toMatchObject({ pid, state: 'running' });
    await branchLive(id, 'adopted');
    const [lost] = await controller.pids('pager');
    await controller.killOnly('pager');
    await until('another pager is up', WAIT_MS, async () => {
      const pids = await controller.pids('pager');
      return pids.length === 1 && pids[0] !== lost;
    });
    // Connections through the lost pager are cut.
    await until('the guest answers', WAIT_MS, async () => {
      const mark = await shell(client, id, 'cat /tmp/mark').catch(() => null);
      return mark === 'mine';
    });
    await branchLive(id, 'reopened');
  });
});
