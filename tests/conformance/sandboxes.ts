import type { DescribedOperation } from '@forkd/testing';
import { expect, test } from 'vitest';
import { expectAbsent, unixNow, type Caller } from './caller.ts';
import { NEEDS, pathOfNone } from './every-route.ts';

export function sandboxRoutes(caller: () => Caller): void {
  test('a fork is a list of sandboxes with explicit nulls', async () => {
    const [sandbox, ...others] = await caller().expectReply(201, 'POST /v1/sandboxes', { snapshot_tag: 'base' });
    expect(others).toEqual([]);
    expect(sandbox).toMatchObject({
      id: expect.stringMatching(/^sb-/),
      snapshot_tag: 'base',
      netns: null,
      guest_addr: expect.any(String),
      created_at_unix: expect.any(Number),
      pid: expect.any(Number),
      memory_limit_mib: null,
      has_branched: false,
      last_branch_memory_path: null,
      branch_count: 0,
      state: 'running',
    });
    expect(Math.abs(sandbox.created_at_unix - unixNow())).toBeLessThan(300);
    expectAbsent(sandbox, 'name', 'labels', 'expires_at_unix', 'on_expire', 'workspace');
    if (caller().target.withheld?.random === undefined) expectAbsent(sandbox, 'warnings');
    expect(await caller().expectReply(200, `GET /v1/sandboxes/${sandbox.id}`)).toEqual(sandbox);
    expect(await caller().expectReply(200, 'GET /v1/sandboxes')).toContainEqual(sandbox);
    await caller().expectReply(204, `DELETE /v1/sandboxes/${sandbox.id}`);
    for (const method of ['GET', 'DELETE']) {
      await caller().expectRefusal(404, 'not_found_sandbox', [sandbox.id], `${method} /v1/sandboxes/${sandbox.id}`);
    }
  });

  test('fields of older clients are accepted, and unknown ones ignored', async () => {
    const request = {
      per_child_netns: false,
      memory_limit_mib: null,
      prewarm: true,
      live_fork: true,
      hugepages: true,
      novel: 1,
    };
    const list = await caller().expectReply(201, 'POST /v1/sandboxes', { snapshot_tag: 'base', n: 2, ...request });
    expect(list).toHaveLength(2);
    expect(list[0].warnings).toContainEqual(expect.stringContaining('hugepages'));
    for (const { id } of list) await caller().expectReply(204, `DELETE /v1/sandboxes/${id}`);
  });

  test.each<[object, number, string, string]>([
    [{ snapshot_tag: 'base', n: 0 }, 400, 'bad_request', 'n must'],
    [{ snapshot_tag: 'base', n: 1001 }, 400, 'bad_request', '1000'],
    [{ snapshot_tag: 'base', n: 1.5 }, 400, 'bad_request', 'n must'],
    [{ snapshot_tag: 'base', n: '2' }, 400, 'bad_request', 'n must'],
    [{ snapshot_tag: 'base', n: null }, 400, 'bad_request', 'n must'],
    [{ snapshot_tag: 'base', memory_limit_mib: 1 }, 400, 'bad_request', 'memory_limit_mib'],
    [{ snapshot_tag: 'base', n: 2, name: 'one' }, 400, 'bad_request', "'one'"],
    [{ snapshot_tag: 'base', name: 'a b' }, 400, 'bad_request', 'name'],
    [{ snapshot_tag: 'base', ttl_secs: 0 }, 400, 'bad_request', 'ttl_secs'],
    [{ snapshot_tag: 'base', labels: { 'a/b': 'c' } }, 400, 'bad_request', 'labels'],
    [{ snapshot_tag: '../base' }, 400, 'bad_tag', '../base'],
    [{}, 400, 'bad_request', 'snapshot_tag'],
    [{ snapshot_tag: 'none' }, 404, 'not_found_snapshot', "'none'"],
  ])('a fork of %j is refused with %i', async (request, status, code, word) => {
    await caller().expectRefusal(status, code, [word], 'POST /v1/sandboxes', request);
  });

  test('a fork without any body is refused', async () => {
    await caller().expectRefusal(400, 'bad_request', [], 'POST /v1/sandboxes');
  });

  test('requests with one idempotency key are carried out once', async () => {
    const once = { headers: { 'idempotency-key': 'conformance-1' } };
    const request = { snapshot_tag: 'base', labels: { a: 'b' } };
    const first = await caller().expectReply(201, 'POST /v1/sandboxes', request, once);
    expect(await caller().expectReply(201, 'POST /v1/sandboxes', request, once)).toEqual(first);
    const other = { ...request, n: 2 };
    await caller().expectRefusal(409, 'idempotency_conflict', ['conformance-1'], 'POST /v1/sandboxes', other, once);
    const long = { headers: { 'idempotency-key': 'x'.repeat(256) } };
    await caller().expectRefusal(400, 'bad_request', ['Idempotency-Key'], 'POST /v1/sandboxes', request, long);
    await caller().expectReply(204, `DELETE /v1/sandboxes/${first[0].id}`);
  });

  test('names, labels and time to live can be set and changed', async () => {
    const settings = { name: 'dev', labels: { team: 'a' }, ttl_secs: 3600, on_expire: 'pause' };
    const [made] = await caller().expectReply(201, 'POST /v1/sandboxes', { snapshot_tag: 'base', ...settings });
    expect(made).toMatchObject({ name: 'dev', labels: { team: 'a' }, on_expire: 'pause' });
    expect(made.expires_at_unix - unixNow()).toBeGreaterThan(3000);
    const again = { snapshot_tag: 'base', name: 'dev' };
    await caller().expectRefusal(409, 'name_taken', ["'dev'"], 'POST /v1/sandboxes', again);
    const ids = async (query: string) =>
      (await caller().expectReply(200, `GET /v1/sandboxes?${query}`)).map(({ id }: { id: string }) => id);
    expect(await ids('label=team%3Da&name=dev&state=running&snapshot_tag=base')).toEqual([made.id]);
    expect(await ids('label=team&label=none')).toEqual([]);
    await caller().expectRefusal(400, 'bad_request', ['state'], 'GET /v1/sandboxes?state=gone');
    const changed = await caller().expectReply(200, 'PATCH /v1/sandboxes/dev', {
      name: null,
      labels: null,
      ttl_secs: null,
    });
    expectAbsent(changed, 'name', 'labels', 'expires_at_unix', 'on_expire');
    await caller().expectRefusal(404, 'not_found_sandbox', ["'dev'"], 'PATCH /v1/sandboxes/dev', {});
    const [other] = await caller().expectReply(201, 'POST /v1/sandboxes', again);
    await caller().expectRefusal(409, 'name_taken', ["'dev'"], `PATCH /v1/sandboxes/${made.id}`, { name: 'dev' });
    await caller().expectReply(204, `DELETE /v1/sandboxes/${other.id}`);
    await caller().expectReply(204, `DELETE /v1/sandboxes/${made.id}`);
  });

  test('a memory limit is enforced or refused, never ignored', async () => {
    const limit = { snapshot_tag: 'base', memory_limit_mib: 512 };
    const { status, body } = await caller().ask('POST /v1/sandboxes', limit);
    const why = caller().unable.get('memory_limit');
    if (why !== undefined) {
      expect([status, body.code]).toEqual([400, 'unsupported']);
      return expect(body.error).toContain(why);
    }
    expect([status, body[0].memory_limit_mib]).toEqual([201, 512]);
    return caller().expectReply(204, `DELETE /v1/sandboxes/${body[0].id}`);
  });

  test('a paused sandbox refuses requests with that reason', async () => {
    const id = await caller().fork();
    const at = `/v1/sandboxes/${id}`;
    expect(await caller().expectReply(200, `POST ${at}/pause`)).toMatchObject({ id, state: 'paused' });
    const needGuest = caller()
      .checker.operations()
      .filter((operation) => isOfGuest(operation) || operation.id === 'measureFloor');
    expect(needGuest).toHaveLength(23);
    for (const operation of needGuest) {
      const { query = '', json } = NEEDS[operation.id] ?? {};
      const path = pathOfNone(operation.template.replace('{id}', id));
      await caller().expectRefusal(409, 'sandbox_paused', [id], `${operation.method} ${path}${query}`, json);
    }
    expect(await caller().expectReply(200, `POST ${at}/resume`)).toMatchObject({ id, state: 'running' });
    expect(await caller().expectReply(200, `POST ${at}/ping`)).toMatchObject({
      pong: true,
      pid: 1,
      numpy_version: expect.any(String),
    });
    await caller().expectReply(204, `DELETE ${at}`);
  });

  test('usage, memory, console and pause floor can be read', async () => {
    const id = await caller().fork();
    const at = `/v1/sandboxes/${id}`;
    expect(await caller().expectReply(200, `GET ${at}/stats`)).toMatchObject({ id, state: 'running', branch_count: 0 });
    expect((await caller().expectReply(200, `GET ${at}/memory`)).shared_bytes).toBeGreaterThan(0);
    const noFloor = caller().unable.get('floor');
    if (noFloor !== undefined) await caller().expectRefusal(400, 'unsupported', [id, noFloor], `POST ${at}/floor`);
    else expect((await caller().expectReply(200, `POST ${at}/floor`)).pause_us).toBeGreaterThan(0);
    const logs = await caller().ask(`GET ${at}/logs?tail_bytes=100`);
    expect([logs.status, logs.headers.get('content-type')]).toEqual([200, 'text/plain; charset=utf-8']);
    await caller().expectRefusal(400, 'bad_request', ['tail_bytes'], `GET ${at}/logs?tail_bytes=-1`);
    await caller().expectReply(204, `DELETE ${at}`);
  });
}

/** Only what asks the guest can find that it does not answer. */
function isOfGuest({ id, template, statuses }: DescribedOperation): boolean {
  return template.startsWith('/v1/sandboxes/{id}/') && statuses.includes(502) && id !== 'branchSandbox';
}
