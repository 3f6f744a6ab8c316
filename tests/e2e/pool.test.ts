/**
 * Forks from VMMs that were started ahead: a child is one of those processes, has its own identity and the template's memory,
 * can be branched, and outlives its pager and its controller; the VMMs that still wait end with either.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { forkOne, installedStorm, makeTemplate, type RemoteStorm, shell, TestController, until } from '@forkd/testing';

const SIZE = 2;
const WAIT_MS = 30_000;

describe('a fork from a VMM that waits', () => {
  let controller: TestController;
  let child: string;
  let storm: RemoteStorm;

  beforeAll(async () => {
    controller = await TestController.start({ args: ['--vmm-pool', String(SIZE)] });
    await makeTemplate(controller.client);
  });

  afterAll(async () => {
    await controller?.[Symbol.asyncDispose]();
  });

  async function poolIsFull(): Promise<number[]> {
    await until('the pool is full', WAIT_MS, async () => (await controller.pids('idle')).length === SIZE);
    return controller.pids('idle');
  }

  it('is one of the processes that waited, and is itself', async () => {
    const { client } = controller;
    const first = await forkOne(client);
    const waiting = await poolIsFull();
    child = await forkOne(client);
    const { pid } = await client.getSandbox(child);
    expect(waiting).toContain(pid);
    expect(await shell(client, child, 'hostname')).toBe(child);
    const ids = await Promise.all([first, child].map((id) => shell(client, id, 'cat /etc/machine-id')));
    expect(new Set(ids).size).toBe(2);
    await client.deleteSandbox(first);
    await poolIsFull();
  });

  it('can be branched while it writes, and its branch forked from the pool again', async () => {
    const { client } = controller;
    storm = await installedStorm(client, child, 16);
    await client.branch(child, { tag: 'of-woken', mode: 'live' });
    const waiting = await poolIsFull();
    const grandchild = await forkOne(client, 'of-woken');
    expect(waiting).toContain((await client.getSandbox(grandchild)).pid);
    const commands = await client.listCommands(grandchild);
    expect(commands.map(({ running }) => running)).toEqual([true]);
    expect(await storm.next()).toMatchObject({ errors: 0 });
    await client.deleteSandbox(grandchild);
  });

  it('goes on under another pager; the VMMs that waited end, and others take their place', async () => {
    const { client } = controller;
    const before = await poolIsFull();
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
    await poolIsFull();
  });

  it('outlives its controller, unlike what waits', async () => {
    const { pid } = await controller.client.getSandbox(child);
    await poolIsFull();
    await controller.kill9();
    await until('those that waited have ended', WAIT_MS, async () => (await controller.pids('idle')).length === 0);
    await controller.serve(['--vmm-pool', String(SIZE)]);
    expect(await controller.client.getSandbox(child)).toMatchObject({ pid });
    expect(await storm.next()).toMatchObject({ errors: 0 });
    await controller.client.deleteSandbox(child);
    expect(await controller.pids('vmm')).toEqual([]);
  });
});
