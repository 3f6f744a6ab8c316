import { until } from '@forkd/testing';
import { expect, test } from 'vitest';
import { expectNoNulls, type Caller } from './caller.ts';

const WRITE_TIMEOUT_MS = 60_000;

export function branchRoutes(caller: () => Caller): void {
  test('without options are full, ready and durable, with a tag of their own', async () => {
    const id = await caller().fork();
    const nothing = `POST /v1/sandboxes/${id}/branch`;
    const branch = await caller().expectReply(201, nothing);
    expect(branch.tag).toMatch(new RegExp(`^branch-${id}-\\d+-[0-9a-f]{4}$`));
    expect(branch).toMatchObject({
      status: 'ready',
      bootable: true,
      durable: true,
      branched_from: id,
      parent_tag: 'base',
    });
    expect(branch.pause_ms).toBeGreaterThan(0);
    expect(branch.pause_ms).toBe(Math.ceil(branch.pause_us / 1000));
    expect(branch).not.toHaveProperty('diff_ms');
    expectNoNulls(branch);
    const source = await caller().expectReply(200, `GET /v1/sandboxes/${id}`);
    expect(source).toMatchObject({ has_branched: true, branch_count: 1, last_branch_memory_path: expect.any(String) });
    await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
    await caller().expectReply(204, `DELETE /v1/snapshots/${branch.tag}`);
  });

  test('take their mode by name and by the older flags', async () => {
    const id = await caller().fork();
    const route = `POST /v1/sandboxes/${id}/branch`;
    const requests = [
      { mode: 'full' },
      { mode: 'diff' },
      { mode: 'live' },
      { mode: null, diff: true },
      { live: true, diff: false },
      { measure_diff: true, tag: null },
    ];
    for (const [index, request] of requests.entries()) {
      const tag = `mode-${index}`;
      const why = 'live' in request || request.mode === 'live' ? caller().unable.get('live') : undefined;
      if (why !== undefined) {
        await caller().expectRefusal(400, 'unsupported', [id, why], route, { ...request, tag });
        continue;
      }
      const branch = await caller().expectReply(201, route, { ...request, tag });
      const isDiff = 'diff_ms' in branch && 'diff_physical_bytes' in branch && 'diff_logical_bytes' in branch;
      expect([request, branch.tag, isDiff]).toEqual([request, tag, index !== 0]);
      if (isDiff) {
        expect(branch.diff_logical_bytes).toBe(branch.mem_mib * 2 ** 20);
        expect([branch.diff_ms, branch.diff_physical_bytes].every(Number.isInteger)).toBe(true);
      }
      // A full branch stores more than the measured one of changed pages would have stored.
      if (request.measure_diff) {
        expect(branch.diff_ms).toBeGreaterThan(0);
        expect(branch.diff_ms).toBeLessThanOrEqual(branch.pause_ms);
        expect(branch.diff_physical_bytes).toBeGreaterThan(0);
        expect(branch.diff_physical_bytes).toBeLessThan(branch.captured_bytes);
      }
      const child = await caller().fork(tag);
      await caller().expectReply(204, `DELETE /v1/sandboxes/${child}`);
      await caller().expectReply(204, `DELETE /v1/snapshots/${tag}`);
    }
    await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
  });

  test.each<[object, string]>([
    [{ mode: 'live', live: true }, 'exclude each other'],
    [{ mode: 'full', diff: true }, 'exclude each other'],
    [{ diff: true, live: true }, 'exclude each other'],
    [{ live: true, measure_diff: true }, 'exclude each other'],
    [{ wait: false }, 'wait=false'],
    [{ wait: false, mode: 'diff' }, 'wait=false'],
    [{ mode: 'hot' }, 'mode'],
    [{ until: 'tomorrow' }, 'until'],
    [{ parent_tag: 'none' }, "'none'"],
    [{ parent_tag: 'none', mode: 'diff' }, "'none'"],
    [{ parent_tag: 'base', mode: 'full' }, "mode 'diff'"],
    [{ parent_tag: 'base', measure_diff: true }, "mode 'diff'"],
  ])('a branch of %j is refused', async (request, word) => {
    const id = await caller().fork();
    await caller().expectRefusal(400, 'bad_request', [word], `POST /v1/sandboxes/${id}/branch`, request);
    await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
  });

  test('are refused with an invalid or taken tag', async () => {
    const id = await caller().fork();
    const route = `POST /v1/sandboxes/${id}/branch`;
    await caller().expectRefusal(400, 'bad_tag', ['a/b'], route, { tag: 'a/b' });
    await caller().expectRefusal(409, 'tag_exists', ["'base'"], route, { tag: 'base', mode: 'diff' });
    await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
  });

  test('without waiting are reported as writing at first, and ready later', async ({ skip }) => {
    const why = caller().unable.get('live');
    skip(why !== undefined, why);
    const route = `POST /v1/sandboxes/${await caller().fork()}/branch`;
    // A small guest may be written before it can be told.
    await until('it was told early', WRITE_TIMEOUT_MS, async () => {
      const { status, body } = await caller().ask(route, { tag: 'later', live: true, wait: false });
      const isEarly = status === 202;
      expect([status, body.status, body.bootable]).toEqual(isEarly ? [202, 'writing', false] : [201, 'ready', true]);
      expect(body).toMatchObject({ tag: 'later', branched_from: route.split('/')[3] });
      expect(body.pause_ms).toBeGreaterThan(0);
      await expectDurable(caller(), 'later');
      await removeFree(caller(), route, 'later');
      return isEarly;
    });
    const ready = await caller().expectReply(201, route, { tag: 'soon', mode: 'live', until: 'ready' });
    expect(ready).toMatchObject({ status: 'ready', bootable: true });
    await expectDurable(caller(), 'soon');
    await removeFree(caller(), route, 'soon');
    await caller().expectReply(204, `DELETE ${route.split(' ')[1]?.replace('/branch', '')}`);
  });

  test('that are ready can be described and removed, and their source branched, at once', async () => {
    const id = await caller().fork();
    const route = `POST /v1/sandboxes/${id}/branch`;
    const ready = await caller().expectReply(201, route, { tag: 'first', mode: 'diff', until: 'ready' });
    expect(ready).toMatchObject({ status: 'ready', bootable: true });
    const next = caller().expectReply(201, route, { tag: 'second', mode: 'diff', until: 'ready' });
    expect(await caller().expectReply(200, 'GET /v1/snapshots/first/info')).toMatchObject({ parent_tag: 'base' });
    await caller().expectReply(204, 'DELETE /v1/snapshots/first');
    await next;
    await caller().expectReply(204, 'DELETE /v1/snapshots/second');
    await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
  });

  test('make a pause of their source wait', async () => {
    const id = await caller().fork();
    await until('it came while the branch was under way', WRITE_TIMEOUT_MS, async () => {
      const branching = caller().ask(`POST /v1/sandboxes/${id}/branch`, { tag: 'held' });
      let ended = false;
      void branching.finally(() => (ended = true));
      // A listed branch is under way, but may end before the pause arrives.
      await until('it is in the list', WRITE_TIMEOUT_MS, async () => {
        return ended || (await caller().ask('GET /v1/snapshots/held')).status === 200;
      });
      const paused = await caller().ask(`POST /v1/sandboxes/${id}/pause`);
      const { status } = await branching;
      if (status === 201) await caller().expectReply(204, 'DELETE /v1/snapshots/held');
      await caller().expectReply(200, `POST /v1/sandboxes/${id}/resume`);
      return paused.status === 409 && paused.body.code === 'branch_in_flight';
    });
    await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
  });

  test('run one at a time per sandbox, and up to the limit over all sandboxes', async () => {
    const n = caller().target.branchConcurrency + 1;
    const children = await caller().expectReply(201, 'POST /v1/sandboxes', { snapshot_tag: 'base', n });
    const ids: string[] = children.map(({ id }: { id: string }) => id);
    const branch = (id: string, tag: string) => caller().ask(`POST /v1/sandboxes/${id}/branch`, { tag });
    const twice = await Promise.all([branch(ids[0] ?? '', 'one'), branch(ids[0] ?? '', 'two')]);
    expect(twice.map(({ status }) => status).toSorted((one, other) => one - other)).toEqual([201, 409]);
    expect(twice.find(({ status }) => status === 409)?.body).toMatchObject({ code: 'branch_in_flight' });
    const many = await Promise.all(ids.map((id, index) => branch(id, `many-${index}`)));
    const refused = many.filter(({ status }) => status !== 201);
    expect(refused.map(({ status, body }) => [status, body.code])).toEqual([[503, 'branch_cap']]);
    expect(refused[0]?.body.error).toContain(`the cap is ${n - 1}`);
    for (const id of ids) await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
    for (const { status, body } of [...twice, ...many]) {
      if (status === 201) await caller().expectReply(204, `DELETE /v1/snapshots/${body.tag}`);
    }
  });
}

async function expectDurable(caller: Caller, tag: string): Promise<void> {
  const find = () => caller.expectReply(200, `GET /v1/snapshots/${tag}`);
  await until(`'${tag}' is durable`, WRITE_TIMEOUT_MS, async () => (await find()).durable === true);
  expect(await find()).toMatchObject({ status: 'ready', bootable: true });
}

/** Removes a snapshot of a branch that was not waited for, and waits until its source can be branched again. */
async function removeFree(caller: Caller, route: string, tag: string): Promise<void> {
  await caller.expectReply(204, `DELETE /v1/snapshots/${tag}`);
  await until('the next branch can be taken', WRITE_TIMEOUT_MS, async () => {
    const { status } = await caller.ask(route, { tag });
    return status === 201;
  });
  await caller.expectReply(204, `DELETE /v1/snapshots/${tag}`);
}
