/**
 * A sandbox with a memory limit, on real guests and a real cgroup: one that uses more ends, with an error that says so, and
 * no other is touched; the limit holds for a VMM that waited before it had a VM; no cgroup is left, by an end or by a crash.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { forkOne, REPO, shell, TestController, until } from '@forkd/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const LIMIT_MIB = 160;
const WAIT_MS = 30_000;
/** Where the groups are, in the two versions of cgroups. */
const PARENTS = ['/sys/fs/cgroup/forkd', '/sys/fs/cgroup/memory/forkd'];

describe('a sandbox with a memory limit', () => {
  let controller: TestController;
  let unavailable: string | undefined;
  let before: string[];

  beforeAll(async () => {
    before = await groups();
    controller = await TestController.start({ args: ['--vmm-pool', '1'], template: true });
    const { isolation } = (await controller.client.host()).engine;
    unavailable = isolation.find(({ id, ok }) => id === 'memory_cgroup' && !ok)?.detail;
  });

  afterAll(async () => {
    await controller?.[Symbol.asyncDispose]();
  });

  /** Other controllers of this host may have some. */
  async function groups(): Promise<string[]> {
    const lists = await Promise.all(PARENTS.filter(existsSync).map((dir) => readdir(dir, { withFileTypes: true })));
    return lists.flat().flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  }

  async function ownGroups(): Promise<string[]> {
    return (await groups()).filter((name) => !before.includes(name) && name.length === 32);
  }

  async function forkLimited(): Promise<string> {
    const [sandbox] = await controller.client.createSandboxes({ snapshot_tag: 'base', memory_limit_mib: LIMIT_MIB });
    expect(sandbox?.memory_limit_mib).toBe(LIMIT_MIB);
    return sandbox?.id ?? '';
  }

  async function groupOf(id: string): Promise<string> {
    const { pid } = await controller.client.getSandbox(id);
    const lines = (await readFile(`/proc/${pid}/cgroup`, 'utf8')).split('\n');
    return lines.find((line) => line.includes('/forkd/'))?.split('/forkd/')[1] ?? '';
  }

  test('is refused where there is no cgroup, with the reason, and other forks are not', async () => {
    const program = join(REPO, 'tests/e2e/programs/no-cgroups-host.mjs');
    const script = 'umount -R /sys/fs/cgroup && exec "$@"';
    const args = ['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', process.execPath, program];
    const { stdout } = await promisify(execFile)('unshare', args);
    const seen = JSON.parse(stdout) as { isolation: { id: string; ok: boolean; detail: string }[] };
    const { ok, detail } = seen.isolation.find(({ id }) => id === 'memory_cgroup') ?? {};
    expect(ok).toBe(false);
    const message = expect.stringContaining(`memory_limit_mib cannot be enforced: ${detail}`) as string;
    expect(seen).toMatchObject({ refused: { code: 'unsupported', status: 400, message }, memory_limit_mib: null });
  });

  test('runs within it, in a cgroup of its own, whether its VMM has waited or not', async ({ skip }) => {
    skip(unavailable !== undefined, unavailable);
    const ids = [await forkLimited()];
    await until('a VMM waits', WAIT_MS, async () => (await controller.pids('idle')).length === 1);
    const [waiting] = await controller.pids('idle');
    ids.push(await forkLimited());
    expect((await controller.client.getSandbox(ids[1] ?? '')).pid).toBe(waiting);
    const own = await Promise.all(ids.map(groupOf));
    expect(own.toSorted()).toEqual((await ownGroups()).toSorted());
    expect(new Set(own).size).toBe(2);
    for (const id of ids)
      expect(await shell(controller.client, id, 'head -c 20000000 /dev/zero > /root/x; echo here')).toBe('here');
    await Promise.all(ids.map((id) => controller.client.deleteSandbox(id)));
    expect(await ownGroups()).toEqual([]);
  });

  test('ends when it uses more, and says so; another runs on', async ({ skip }) => {
    skip(unavailable !== undefined, unavailable);
    const { client } = controller;
    const other = await forkOne(client);
    const id = await forkLimited();
    const greedy = shell(
      client,
      id,
      'head -c 200000000 /dev/zero > /dev/shm/x || head -c 200000000 /dev/zero | tail -n 1 | wc -c',
    );
    await expect(greedy).rejects.toMatchObject({
      code: 'guest_unreachable',
      message: expect.stringContaining(`memory limit of ${LIMIT_MIB} MiB`),
    });
    await until(
      'it is gone',
      WAIT_MS,
      async () => !(await client.listSandboxes()).some((sandbox) => sandbox.id === id),
    );
    expect(await shell(client, other, 'hostname')).toBe(other);
    await until('its cgroup is gone', WAIT_MS, async () => (await ownGroups()).length === 0);
    await client.deleteSandbox(other);
  });

  test('leaves no cgroup when it ends while no controller runs; one that runs is taken over with its limit', async ({
    skip,
  }) => {
    skip(unavailable !== undefined, unavailable);
    const { client } = controller;
    const [dying, living] = [await forkLimited(), await forkLimited()];
    const { pid } = await client.getSandbox(dying);
    await controller.kill9();
    process.kill(pid ?? 0, 'SIGKILL');
    await controller.serve(['--vmm-pool', '1']);
    expect((await client.listSandboxes()).map(({ id, memory_limit_mib }) => [id, memory_limit_mib])).toEqual([
      [living, LIMIT_MIB],
    ]);
    expect(await ownGroups()).toEqual([await groupOf(living)]);
    await client.deleteSandbox(living);
    expect(await ownGroups()).toEqual([]);
  });
});
