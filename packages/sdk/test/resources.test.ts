// Proves what the words of the resources become on the wire, route by route, and what its answers become: life and pause of
// sandboxes, logs, snapshots, workspaces. Against a real HTTP server that records what it was sent.

import { ApiError, type SandboxInfo, type WorkspaceInfo } from '@forkd/api';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ConflictError, ForkdClient, NotFoundError, Sandbox, Snapshot, TimeoutError, Workspace } from '../src/index.ts';
import { FakeController } from './support/fake-controller.ts';
import { readJson, send, sendNothing } from './support/replies.ts';

const ID = 'sb-0000000001';
let fake: FakeController;
let client: ForkdClient;
/** What the routes of one test were asked: method, path with its query, body. */
let asked: unknown[][];

beforeAll(async () => {
  fake = await FakeController.start();
});
afterAll(() => fake.stop());
beforeEach(() => {
  fake.overrides.clear();
  fake.sandboxes.clear();
  fake.snapshots.clear();
  fake.addSnapshot('py');
  fake.addSandbox(ID);
  client = new ForkdClient({ socket: fake.socket });
  asked = [];
});

/** Answers a route, and records how it was asked. */
function answer(route: string, status: number, body: unknown): void {
  fake.overrides.set(route, async (request, response) => {
    asked.push([request.method, request.url, await readJson(request)]);
    if (body instanceof ApiError) throw body;
    return status === 204 ? sendNothing(response) : send(response, status, body);
  });
}

function info(more: Partial<SandboxInfo> = {}): SandboxInfo {
  return { ...fake.addSandbox(ID), ...more };
}

describe('a branch without a mode', () => {
  /** A host without live branches, and the modes that it was asked for. */
  function withoutLive(): unknown[] {
    const modes: unknown[] = [];
    fake.overrides.set(`POST /v1/sandboxes/${ID}/branch`, async (request, response) => {
      const { mode } = (await readJson(request)) as { mode: string };
      modes.push(mode);
      if (mode === 'live') throw new ApiError('unsupported', 'This host has no live branches.');
      send(response, 201, { tag: 'b1' });
    });
    return modes;
  }

  test('is taken as diff on a host without live branches, and its caller is told why', async () => {
    const modes = withoutLive();
    const reasons: string[] = [];
    const branch = await Sandbox.branch(ID, { client, onFallback: ({ code }) => reasons.push(code) });
    expect(branch.tag).toBe('b1');
    expect({ modes, reasons }).toEqual({ modes: ['live', 'diff'], reasons: ['unsupported'] });
  });

  test('is refused if its caller asked for live', async () => {
    const modes = withoutLive();
    const call = Sandbox.branch(ID, { client, mode: 'live', onFallback: () => modes.push('told') });
    await expect(call).rejects.toMatchObject({ code: 'unsupported' });
    expect(modes).toEqual(['live']);
  });
});

describe('Sandbox', () => {
  test('starts with a name, labels and a life in milliseconds, which the wire counts in whole seconds', async () => {
    answer('POST /v1/sandboxes', 201, [info({ name: 'web' })]);
    const labels = { team: 'blue' };
    const options = { client, name: 'web', labels, timeoutMs: 1_500, onTimeout: 'pause', memoryLimitMib: 256 } as const;
    expect((await Sandbox.create('py', options)).info.name).toBe('web');
    await Sandbox.create({ snapshotTag: 'py', ...options }, { timeoutMs: 60_000 });
    const sent = {
      snapshot_tag: 'py',
      n: 1,
      name: 'web',
      labels,
      ttl_secs: 2,
      on_expire: 'pause',
      memory_limit_mib: 256,
    };
    expect(asked.map(([, , body]) => body)).toEqual([sent, { ...sent, ttl_secs: 60 }]);
  });

  test('never takes the life of a sandbox for the time of its request, nor the other way round', async () => {
    fake.overrides.set('POST /v1/sandboxes', () => {});
    const error: unknown = await Sandbox.create('py', { client, timeoutMs: 3_600_000, requestTimeoutMs: 100 }).catch(
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(TimeoutError);
    expect(error).toMatchObject({ code: 'request_timeout', name: 'TimeoutError' });
    answer('POST /v1/sandboxes', 201, [info()]);
    await Sandbox.create('py', { client, requestTimeoutMs: 30_000 });
    expect(asked[0]?.[2]).toEqual({ snapshot_tag: 'py', n: 1 });
  });

  test('lists those that match', async () => {
    answer('GET /v1/sandboxes', 200, [info()]);
    const found = await Sandbox.list({ client, labels: { team: 'blue', tier: 'a=b' }, state: 'paused', name: 'web' });
    expect(found.map(({ id }) => id)).toEqual([ID]);
    await Sandbox.list({ client, snapshotTag: 'py', workspace: 'w' });
    expect(asked.map(([, url]) => url)).toEqual([
      '/v1/sandboxes?label=team%3Dblue&label=tier%3Da%3Db&state=paused&name=web',
      '/v1/sandboxes?snapshot_tag=py&workspace=w',
    ]);
  });

  test('pauses, resumes and sets the life, by instance and by name', async () => {
    const sandbox = await Sandbox.connect(ID, { client });
    answer(`POST /v1/sandboxes/${ID}/pause`, 200, info({ state: 'paused' }));
    answer('POST /v1/sandboxes/web/resume', 200, info({ state: 'running' }));
    answer(`PATCH /v1/sandboxes/${ID}`, 200, info());
    answer('PATCH /v1/sandboxes/web', 200, info());
    expect((await sandbox.pause()).state).toBe('paused');
    expect((await Sandbox.resume('web', { client })).state).toBe('running');
    await sandbox.setTimeout(90_001, { onTimeout: 'kill' });
    await Sandbox.setTimeout('web', null, { client });
    expect(asked.slice(2)).toEqual([
      ['PATCH', `/v1/sandboxes/${ID}`, { ttl_secs: 91, on_expire: 'kill' }],
      ['PATCH', '/v1/sandboxes/web', { ttl_secs: null }],
    ]);
  });

  test('says whether it runs: not when it is paused, not when it is gone', async () => {
    const sandbox = await Sandbox.connect(ID, { client });
    expect(await sandbox.isRunning()).toBe(true);
    answer(`GET /v1/sandboxes/${ID}`, 200, info({ state: 'paused' }));
    expect(await sandbox.isRunning()).toBe(false);
    fake.overrides.clear();
    fake.sandboxes.clear();
    expect(await sandbox.isRunning()).toBe(false);
    await expect(sandbox.getInfo()).rejects.toBeInstanceOf(NotFoundError);
  });

  test('tells a refusal because of its state as a conflict', async () => {
    answer(`POST /v1/sandboxes/${ID}/ping`, 409, new ApiError('sandbox_paused', `sandbox "${ID}" is paused`));
    const sandbox = await Sandbox.connect(ID, { client });
    const error: unknown = await sandbox.ping().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConflictError);
    expect(error).toMatchObject({ code: 'sandbox_paused', status: 409 });
  });

  test('gives the console as text, however its characters were cut', async () => {
    const bytes = Buffer.from('grüße ✓\n');
    fake.overrides.set(`GET /v1/sandboxes/${ID}/logs`, async (request, response) => {
      asked.push([request.url]);
      response.writeHead(200, { 'content-type': 'text/plain' });
      for (const byte of bytes) await new Promise<void>((done) => response.write(Buffer.of(byte), () => done()));
      response.end();
    });
    const sandbox = await Sandbox.connect(ID, { client });
    let text = '';
    for await (const piece of sandbox.logs({ tailBytes: 10, follow: true })) text += piece;
    expect(text).toBe('grüße ✓\n');
    expect(asked).toEqual([[`/v1/sandboxes/${ID}/logs?tail_bytes=10&follow=true`]]);
  });

  test('ends with its block', async () => {
    {
      await using sandbox = await Sandbox.connect(ID, { client });
      expect(fake.sandboxes.has(sandbox.id)).toBe(true);
    }
    expect(fake.sandboxes.has(ID)).toBe(false);
  });

  test('gives the time of a command and of an evaluation to the guest', async () => {
    answer(`POST /v1/sandboxes/${ID}/eval`, 200, { result: '1', error: null, exit_code: 0 });
    const sandbox = await Sandbox.connect(ID, { client });
    await sandbox.eval('1', { timeoutMs: 1_500 });
    await sandbox.commands.start('true', { timeoutMs: 2_500, requestTimeoutMs: 5_000 });
    expect(asked[0]?.[2]).toEqual({ code: '1', timeout_secs: 1.5 });
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toMatchObject({ timeout_secs: 2.5 });
  });

  test('knows what is there, in a directory and out of one', async () => {
    const { files } = await Sandbox.connect(ID, { client });
    await files.write('/srv/app/main.py', 'print()');
    expect(await files.exists('/srv/app')).toBe(true);
    expect(await files.exists('/srv/app/main.py')).toBe(true);
    expect(await files.exists('/srv/app/other.py')).toBe(false);
    await files.makeDir('/srv/made/here');
    await files.rename('/srv/made/here', '/srv/renamed');
    expect(await files.stat('/srv/renamed')).toMatchObject({ type: 'dir', target: null });
  });
});

describe('Snapshot', () => {
  test('is pruned, compacted and deleted', async () => {
    answer('POST /v1/snapshots/prune', 200, { removed: ['b1'], kept: [{ tag: 'b2', reason: 'it has dependents' }] });
    const pruned = await Snapshot.prune({ client, olderThanMs: 3_600_000, keep: 2, dryRun: true });
    expect(pruned).toEqual({ removed: ['b1'], kept: [{ tag: 'b2', reason: 'it has dependents' }] });
    answer('POST /v1/snapshots/py/compact', 200, { ...fake.snapshots.get('py'), tag: 'flat' });
    const snapshot = await Snapshot.get('py', { client });
    expect((await snapshot.compact('flat')).tag).toBe('flat');
    expect(asked.map(([, , body]) => body)).toEqual([
      { older_than_secs: 3600, keep: 2, dry_run: true },
      { to: 'flat' },
    ]);
    fake.addSnapshot('later', { branched_from: 'py' });
    await expect(snapshot.delete()).rejects.toMatchObject({ name: 'ConflictError', code: 'has_dependents' });
    expect(await snapshot.delete({ force: true })).toBe(true);
    expect(await snapshot.delete()).toBe(false);
  });

  test('is waited for within a time, until it is ready and until it is durable', async () => {
    fake.addSnapshot('b', { status: 'writing' });
    const snapshot = await Snapshot.get('b', { client });
    await expect(snapshot.waitUntil('ready', { requestTimeoutMs: 150 })).rejects.toBeInstanceOf(TimeoutError);
    fake.addSnapshot('b', { status: 'ready', durable: false });
    expect((await snapshot.waitUntil('ready')).info.status).toBe('ready');
    const durable = snapshot.waitUntil('durable');
    fake.addSnapshot('b', { status: 'ready', durable: true });
    expect((await durable).info.durable).toBe(true);
    const reason = new Error('enough');
    await expect(snapshot.waitUntil('ready', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe('Workspace', () => {
  const workspace = (more: Partial<WorkspaceInfo> = {}): WorkspaceInfo => ({
    id: 'ws-1',
    name: 'mine',
    source_snapshot_tag: 'py',
    status: 'running',
    live_sandbox_id: ID,
    created_at_unix: 1,
    last_active_unix: 2,
    ...more,
  });

  test('is made, suspended, resumed and deleted', async () => {
    answer('POST /v1/workspaces', 201, workspace());
    answer('GET /v1/workspaces', 200, [workspace()]);
    answer('GET /v1/workspaces/mine', 200, workspace());
    answer('POST /v1/workspaces/mine/suspend', 200, workspace({ status: 'suspended', current_state_tag: 'ws-mine-1' }));
    answer('POST /v1/workspaces/mine/resume', 200, workspace());
    const mine = await Workspace.create('mine', 'py', { client, labels: { team: 'blue' }, memoryLimitMib: 128 });
    expect(asked[0]?.[2]).toEqual({
      name: 'mine',
      snapshot_tag: 'py',
      labels: { team: 'blue' },
      memory_limit_mib: 128,
    });
    expect((await mine.sandbox()).id).toBe(ID);
    expect((await mine.suspend()).info.status).toBe('suspended');
    expect((await Workspace.resume('mine', { client })).info.status).toBe('running');
    expect((await Workspace.list({ client })).map(({ name }) => name)).toEqual(['mine']);
    answer('DELETE /v1/workspaces/mine', 204, undefined);
    expect(await mine.delete()).toBe(true);
    answer('DELETE /v1/workspaces/mine', 404, new ApiError('not_found_workspace', 'there is no workspace "mine"'));
    expect(await Workspace.delete('mine', { client })).toBe(false);
  });

  test('says that it has no sandbox while it is suspended', async () => {
    const { live_sandbox_id: _, ...rest } = workspace({ status: 'suspended' });
    answer('GET /v1/workspaces/mine', 200, rest);
    const mine = await Workspace.get('mine', { client });
    await expect(mine.sandbox()).rejects.toMatchObject({ code: 'workspace_not_running' });
  });
});
