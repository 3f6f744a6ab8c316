/**
 * Forks from VMMs that were started ahead: a child is one of those processes, has its own identity and the template's memory,
 * can be branched, and outlives its pager and its controller; the VMMs that still wait end with either. The same of VMMs that have
 * loaded their VM before anybody asked for it.
 */

import {
  forkOne,
  installedStorm,
  mapsLayers,
  type RemoteStorm,
  shell,
  type TestController,
  until,
} from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const SIZE = 2;
const WAIT_MS = 30_000;

const test = base.override('controllerOptions', { args: ['--vmm-pool', String(SIZE)], knowsKernel: true });

describe('a fork from the pool of waiting VMMs', () => {
  let child: string;
  let storm: RemoteStorm;

  async function poolIsFull(controller: TestController): Promise<number[]> {
    await until('the pool is full', WAIT_MS, async () => (await controller.pids('idle')).length === SIZE);
    return controller.pids('idle');
  }

  test('is one of the processes that waited, with its own identity', async ({ client, controller }) => {
    const first = await forkOne(client);
    const waiting = await poolIsFull(controller);
    child = await forkOne(client);
    const { pid } = await client.getSandbox(child);
    expect(waiting).toContain(pid);
    expect(await shell(client, child, 'hostname')).toBe(child);
    const ids = await Promise.all([first, child].map((id) => shell(client, id, 'cat /etc/machine-id')));
    expect(new Set(ids).size).toBe(2);
    await client.deleteSandbox(first);
    await poolIsFull(controller);
  });

  /** The waiting VMMs that have loaded a VM ahead. */
  async function loadedAhead(controller: TestController): Promise<number[]> {
    const pids = await controller.pids('idle');
    const loaded = await Promise.all(pids.map(mapsLayers));
    return pids.filter((_, index) => loaded[index]);
  }

  async function oneHasLoaded(controller: TestController): Promise<number> {
    await until('one has loaded ahead', WAIT_MS, async () => (await loadedAhead(controller)).length === 1);
    await poolIsFull(controller);
    const [pid = 0] = await loadedAhead(controller);
    return pid;
  }

  test('is one that has loaded the snapshot ahead, where that was forked twice in a row', async ({
    client,
    controller,
    skip,
  }) => {
    skip((await client.host()).engine.window !== 'inside', 'VMMs load nothing ahead here');
    const ahead = await oneHasLoaded(controller);
    const first = await forkOne(client);
    expect((await client.getSandbox(first)).pid).toBe(ahead);
    expect(await shell(client, first, 'hostname')).toBe(first);
    // The other VMM that waits takes any snapshot.
    await client.branch(first, { tag: 'removed', mode: 'live' });
    const second = await forkOne(client, 'removed');
    const third = await forkOne(client, 'removed');
    const ids = await Promise.all([child, first, second, third].map((id) => shell(client, id, 'cat /etc/machine-id')));
    expect(new Set(ids).size).toBe(4);
    for (const id of [first, second, third]) await client.deleteSandbox(id);
  });

  test('is not held up by a VMM that was killed with what it had loaded', async ({ client, controller, skip }) => {
    skip((await client.host()).engine.window !== 'inside', 'VMMs load nothing ahead here');
    process.kill(await oneHasLoaded(controller), 'SIGKILL');
    const [one, other] = [await forkOne(client, 'removed'), await forkOne(client, 'removed')];
    for (const id of [one, other]) await client.deleteSandbox(id);
  });

  test('leaves no VMM behind that has loaded a snapshot which is removed', async ({ client, controller, skip }) => {
    skip((await client.host()).engine.window !== 'inside', 'VMMs load nothing ahead here');
    const ahead = await oneHasLoaded(controller);
    await client.deleteSnapshot('removed');
    await until('it has ended', WAIT_MS, async () => !(await controller.pids('idle')).includes(ahead));
    await poolIsFull(controller);
    expect(await loadedAhead(controller)).toEqual([]);
    expect(controller.log).not.toContain('unknown_layer');
  });

  test('can be branched while it writes, and its branch is forked from the pool too', async ({
    client,
    controller,
  }) => {
    storm = await installedStorm(client, child, 16);
    await client.branch(child, { tag: 'of-woken', mode: 'live' });
    const waiting = await poolIsFull(controller);
    const grandchild = await forkOne(client, 'of-woken');
    expect(waiting).toContain((await client.getSandbox(grandchild)).pid);
    const commands = await client.listCommands(grandchild);
    expect(commands.map(({ running }) => running)).toEqual([true]);
    expect(await storm.next()).toMatchObject({ errors: 0 });
    await client.deleteSandbox(grandchild);
  });

  test('goes on under another pager, while the waiting VMMs are replaced', async ({ client, controller }) => {
    const before = await poolIsFull(controller);
    await controller.killOnly('pager');
    expect(before).toHaveLength(SIZE);
    await until('those have ended', WAIT_MS, async () =>
      (await controller.pids('idle')).every((pid) => !before.includes(pid)),
    );
    // A request that is under way when the pager ends is told so.
    const answers = () =>
      shell(client, child, 'hostname').then(
        (name) => name === child,
        () => false,
      );
    await until('the child answers', WAIT_MS, answers);
    await client.branch(child, { tag: 'after-restart', mode: 'live' });
    const again = await forkOne(client, 'after-restart');
    await client.deleteSandbox(again);
    await poolIsFull(controller);
  });

  test('outlives its controller, unlike the waiting VMMs', async ({ client, controller }) => {
    const { pid } = await client.getSandbox(child);
    await poolIsFull(controller);
    await controller.kill9();
    await until('those that waited have ended', WAIT_MS, async () => (await controller.pids('idle')).length === 0);
    await controller.serve(['--vmm-pool', String(SIZE)]);
    expect(await client.getSandbox(child)).toMatchObject({ pid });
    expect(await storm.next()).toMatchObject({ errors: 0 });
    await client.deleteSandbox(child);
    expect(await controller.pids('vmm')).toEqual([]);
  });

  test('is prepared by a new controller: a VMM waits, and the memory has been read', async ({ client, controller }) => {
    await controller.stop();
    expect(await controller.processes()).toEqual([]);
    await controller.serve(['--vmm-pool', String(SIZE), '--log-level', 'debug']);
    await until('the first fork is prepared', WAIT_MS, async () => controller.log.includes('prepared the first fork'));
    expect(await controller.heldLayers()).toBeGreaterThan(0);
    const waiting = await controller.pids('idle');
    const first = await forkOne(client);
    expect(waiting).toContain((await client.getSandbox(first)).pid);
    await client.deleteSandbox(first);
  });
});
