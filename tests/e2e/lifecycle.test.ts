/**
 * Proves on real guests what a sandbox goes through: a paused one does nothing until it is resumed, even through branches, a
 * restarted pager and a killed controller; a time to live ends or pauses it; names and labels find it again; why it ended is
 * told by later controllers too.
 */

import type { ForkdClient } from '@forkd/sdk';
import { codeOf, forkOne, shell, until } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const WAIT_MS = 30_000;
/** Appends a line to a file ten times a second, for as long as the sandbox runs. */
const TICKS = 'while :; do echo x >> /ticks; sleep 0.1; done';

const ticksIn = async (client: ForkdClient, id: string) => Number(await shell(client, id, 'wc -l < /ticks'));

/** Forks a sandbox that ticks, and pauses it after some ticks. */
async function pausedWhileTicking(client: ForkdClient): Promise<string> {
  const id = await forkOne(client);
  await client.startCommand(id, { args: ['sh', '-c', TICKS] });
  await until('the sandbox ticks', WAIT_MS, async () => (await ticksIn(client, id).catch(() => 0)) > 2);
  expect((await client.pauseSandbox(id)).state).toBe('paused');
  return id;
}

describe('a paused sandbox', () => {
  test('refuses commands, can be paused again, and goes on when it is resumed', async ({ client }) => {
    const id = await pausedWhileTicking(client);
    expect((await client.pauseSandbox(id)).state).toBe('paused');
    expect(await codeOf(client.exec(id, { args: ['true'] }))).toBe('sandbox_paused');
    expect((await client.resumeSandbox(id)).state).toBe('running');
    const ticks = await ticksIn(client, id);
    await until('the sandbox ticks again', WAIT_MS, async () => (await ticksIn(client, id)) > ticks);
    await client.deleteSandbox(id);
  });

  test('has the right clock when it is resumed', async ({ client }) => {
    const id = await forkOne(client);
    await client.pauseSandbox(id);
    const pausedAt = Date.now();
    await until('the clock of the guest is behind', WAIT_MS, async () => Date.now() - pausedAt > 4000);
    await client.resumeSandbox(id);
    const before = Math.floor(Date.now() / 1000);
    const inGuest = Number(await shell(client, id, 'date +%s'));
    expect(inGuest).toBeGreaterThanOrEqual(before - 1);
    expect(inGuest).toBeLessThanOrEqual(Date.now() / 1000 + 1);
    await client.deleteSandbox(id);
  });

  test('stays paused through branches, whose children run', async ({ client }) => {
    const id = await pausedWhileTicking(client);
    const branch = await client.branch(id, { tag: 'of-paused', mode: 'live' });
    expect(branch.status).toBe('ready');
    expect((await client.getSandbox(id)).state).toBe('paused');
    // A branch must leave a paused VM as it was, so that more branches are possible.
    for (const mode of ['diff', 'live'] as const) {
      expect((await client.branch(id, { tag: `again-${mode}`, mode })).status).toBe('ready');
      await client.deleteSnapshot(`again-${mode}`);
    }
    const child = await forkOne(client, 'of-paused');
    await until('the child of the branch goes on', WAIT_MS, async () => (await ticksIn(client, child)) > 5);
    expect((await client.getSandbox(id)).state).toBe('paused');
    await Promise.all([id, child].map((one) => client.deleteSandbox(one)));
    await client.deleteSnapshot('of-paused');
  });

  test('stays paused after a branch, a new pager and a new controller', async ({ client, controller }) => {
    const id = await pausedWhileTicking(client);
    const cpuSecs = async () => (await client.sandboxStats(id)).cpu_secs;
    const before = await cpuSecs();
    await client.branch(id, { tag: 'of-paused', mode: 'live' });
    await controller.killOnly('pager');
    await until('a pager is there again', WAIT_MS, async () => (await codeOf(client.memory(id))) === 'ok');
    await controller.kill9();
    await controller.serve();
    expect((await client.getSandbox(id)).state).toBe('paused');
    // A guest that ran for all this time would have used some seconds of the processor.
    expect((await cpuSecs()) - before).toBeLessThan(0.5);
    expect((await client.resumeSandbox(id)).state).toBe('running');
    const ticks = await ticksIn(client, id);
    await until('the sandbox ticks again', WAIT_MS, async () => (await ticksIn(client, id)) > ticks);
    await client.deleteSandbox(id);
    await client.deleteSnapshot('of-paused');
  });
});

describe('the time to live of a sandbox', () => {
  const fork = async (client: ForkdClient, more: object) =>
    (await client.createSandboxes({ snapshot_tag: 'base', ...more }))[0]?.id ?? '';

  test('ends it, pauses it for good, or does neither once it is taken away', async ({ client }) => {
    const [killed, paused, kept] = [
      await fork(client, { ttl_secs: 2 }),
      await fork(client, { ttl_secs: 2, on_expire: 'pause' }),
      await fork(client, { ttl_secs: 2 }),
    ];
    expect((await client.updateSandbox(kept, { ttl_secs: null })).expires_at_unix).toBeUndefined();
    await until('one has ended', WAIT_MS, async () => {
      return (await codeOf(client.getSandbox(killed))) === 'sandbox_ended';
    });
    await until('one is paused for good', WAIT_MS, async () => {
      const { state, expires_at_unix: expiresAt } = await client.getSandbox(paused);
      return state === 'paused' && expiresAt === undefined;
    });
    expect((await client.getSandbox(kept)).state).toBe('running');
    await Promise.all([paused, kept].map((one) => client.deleteSandbox(one)));
  });
});

test('a sandbox is found by its name, which no other can take', async ({ client }) => {
  const [one] = await client.createSandboxes({ snapshot_tag: 'base', name: 'web' });
  const [two] = await client.createSandboxes({ snapshot_tag: 'base' });
  expect((await client.getSandbox('web')).id).toBe(one?.id);
  expect(await shell(client, 'web', 'hostname')).toBe(one?.id);
  expect(await codeOf(client.createSandboxes({ snapshot_tag: 'base', name: 'web' }))).toBe('name_taken');
  expect(await codeOf(client.updateSandbox(two?.id ?? '', { name: 'web' }))).toBe('name_taken');
  expect(await codeOf(client.createSandboxes({ snapshot_tag: 'base', n: 2, name: 'db' }))).toBe('bad_request');
  await client.updateSandbox('web', { name: null });
  expect(await codeOf(client.getSandbox('web'))).toBe('not_found_sandbox');
  await Promise.all([one, two].map((info) => client.deleteSandbox(info?.id ?? '')));
});

test('sandboxes are found by their labels, which can be changed', async ({ client }) => {
  const [one] = await client.createSandboxes({ snapshot_tag: 'base', labels: { team: 'a', tier: '1' } });
  const [two] = await client.createSandboxes({ snapshot_tag: 'base', labels: { team: 'b' } });
  const found = async (query: object) => (await client.listSandboxes({}, query)).map(({ id }) => id);
  expect(await found({ label: ['team=a', 'tier'] })).toEqual([one?.id]);
  expect(await found({ label: 'team' })).toEqual([one?.id, two?.id]);
  expect(await found({ name: 'nobody' })).toEqual([]);
  await client.updateSandbox(one?.id ?? '', { labels: { team: 'b' } });
  expect(await found({ label: 'team=b' })).toEqual([one?.id, two?.id]);
  await Promise.all([one, two].map((info) => client.deleteSandbox(info?.id ?? '')));
});

test('why a sandbox ended is told after a restart and after kill -9, even if it ended in between', async ({
  client,
  controller,
}) => {
  const ended = () => client.listSandboxes({}, { state: 'ended' });
  const [seen, unseen] = [await forkOne(client), await forkOne(client)];
  const killVmm = async (pid: number | null) => {
    process.kill(pid ?? 0, 'SIGKILL');
    await until('the VMM has ended', WAIT_MS, async () => !(await controller.pids('vmm')).includes(pid ?? 0));
  };
  await killVmm((await client.getSandbox(seen)).pid);
  await until('its end is known', WAIT_MS, async () => (await codeOf(client.getSandbox(seen))) === 'sandbox_ended');
  const before = await ended();
  expect(before.at(-1)).toMatchObject({ id: seen, state: 'ended', end_reason: 'crashed' });

  await controller.stop();
  await controller.serve();
  expect(await ended()).toEqual(before);

  await shell(client, unseen, 'echo its last words > /dev/console');
  const { pid } = await client.getSandbox(unseen);
  await controller.kill9();
  await killVmm(pid);
  await controller.serve();
  expect((await ended()).slice(0, -1)).toEqual(before);
  expect((await ended()).at(-1)).toMatchObject({
    id: unseen,
    end_reason: 'lost',
    end_message: `Sandbox ${unseen} ended while no controller ran.`,
    console_tail: expect.stringContaining('its last words'),
  });
  for (const id of [seen, unseen]) {
    await expect(client.getSandbox(id)).rejects.toMatchObject({ code: 'sandbox_ended', hint: expect.any(String) });
  }
});
