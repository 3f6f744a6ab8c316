// Proves that code written for forkd's own TypeScript SDK runs with nothing but its import changed: what each method sends and
// returns, over real HTTP and over a caller's own fetch, whose replies have no more than `ok`, `status` and `text`.
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { Controller, ControllerError, Sandbox } from '../src/compat/index.ts';
import * as main from '../src/index.ts';
import { FakeController } from './support/fake-controller.ts';
import { readJson, send } from './support/replies.ts';

const ID = 'sb-abcdefabcd';
let fake: FakeController;

beforeAll(async () => {
  fake = await FakeController.start();
});
afterAll(() => fake.stop());
beforeEach(() => {
  fake.overrides.clear();
  fake.sandboxes.clear();
  fake.snapshots.clear();
  fake.token = undefined;
  fake.addSnapshot('py');
  fake.addSandbox(ID);
});

/** A fetch that answers with one thing, and the requests that it was given. */
function recorded(status: number, body: string) {
  const calls: { url: string; init: RequestInit }[] = [];
  const reply = { ok: status < 300, status, text: async () => body };
  const recording = async (url: unknown, init: unknown) => {
    calls.push({ url: String(url), init: init as RequestInit });
    return reply;
  };
  return { calls, fetch: recording as unknown as typeof fetch };
}

const sentBody = (call: { init: RequestInit } | undefined): unknown => JSON.parse(call?.init.body as string);

describe('Controller', () => {
  test('is there under both names', () => {
    expect(main.Controller).toBe(Controller);
    expect(main.ControllerError).toBe(ControllerError);
  });

  test('does over HTTP what its methods say', async () => {
    const controller = new Controller({ baseUrl: `${fake.url}/` });
    expect((await controller.listSnapshots()).map(({ tag }) => tag)).toEqual(['py']);
    const spawned = await controller.spawnSandboxes({ snapshotTag: 'py', n: 2 });
    expect(spawned.map((info) => info.snapshot_tag)).toEqual(['py', 'py']);
    expect(await controller.listSandboxes()).toHaveLength(3);
    expect((await controller.getSandbox(ID)).created_at_unix).toBeGreaterThan(0);
    expect(await controller.pingSandbox(ID)).toEqual({ pong: true, pid: 1 });
    expect(await controller.evalCode(ID, 'raise')).toEqual({ result: null, error: 'Traceback: x', exit_code: 1 });
    expect(await controller.execCommand(ID, ['true'])).toEqual({ stdout: '', stderr: '', exit_code: 0 });
    expect((await controller.branchSandbox(ID, { tag: 'b1', diff: true })).branched_from).toBe(ID);
    await controller.killSandbox(ID);
    await controller.deleteSnapshot('b1');
    const error: unknown = await controller.killSandbox(ID).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ControllerError);
    const url = `${fake.url}/v1/sandboxes/${ID}`;
    expect(error).toMatchObject({ name: 'ControllerError', status: 404, url, body: { code: 'not_found_sandbox' } });
    expect((error as Error).message).toMatch(
      new RegExp(`^controller ${url}: HTTP 404: \\{"error":"there is no sandbox`),
    );
  });

  test('sends in snake_case what it is given in camelCase, and no more', async () => {
    const { calls, fetch } = recorded(201, '[]');
    const controller = new Controller({ fetch });
    await controller.spawnSandboxes({ snapshotTag: 'py' });
    const all = { n: 3, perChildNetns: true, memoryLimitMib: 512, prewarm: true, liveFork: true, hugepages: false };
    await controller.spawnSandboxes({ snapshotTag: 'py', ...all });
    expect(calls.map(sentBody)).toEqual([
      { snapshot_tag: 'py', n: 1, per_child_netns: false },
      {
        snapshot_tag: 'py',
        n: 3,
        per_child_netns: true,
        memory_limit_mib: 512,
        prewarm: true,
        live_fork: true,
        hugepages: false,
      },
    ]);
  });

  test('sends one way to branch, the newer one where both are given', async () => {
    const { calls, fetch } = recorded(201, '{}');
    const controller = new Controller({ fetch });
    await controller.branchSandbox(ID);
    await controller.branchSandbox(ID, { tag: 'b1', diff: true });
    await controller.branchSandbox(ID, { live: true, wait: false });
    await controller.branchSandbox(ID, { mode: 'live', diff: true, wait: true, parent_tag: 'py' });
    await controller.branchSandbox(ID, { measure_diff: true, diff: false });
    expect(calls.map(sentBody)).toEqual([
      {},
      { tag: 'b1', diff: true },
      { live: true, wait: false },
      { mode: 'live', parent_tag: 'py' },
      { measure_diff: true },
    ]);
  });

  test('names the time of a command, and quotes what it puts in a path', async () => {
    const { calls, fetch } = recorded(200, '{}');
    const controller = new Controller({ baseUrl: 'http://x', fetch });
    await controller.execCommand('a b', ['true']);
    await controller.execCommand(ID, ['true'], { timeoutSecs: 5 });
    expect(calls[0]?.url).toBe('http://x/v1/sandboxes/a%20b/exec');
    expect(calls.map(sentBody)).toEqual([
      { args: ['true'], timeout_secs: 30 },
      { args: ['true'], timeout_secs: 5 },
    ]);
  });

  test('takes the address and the token from its options, else from the environment', async () => {
    vi.stubEnv('FORKD_URL', 'http://from-env/');
    vi.stubEnv('FORKD_TOKEN', 'correct-horse-battery');
    try {
      expect(new Controller()).toMatchObject({ baseUrl: 'http://from-env', token: 'correct-horse-battery' });
      expect(new Controller({ baseUrl: 'http://y' }).baseUrl).toBe('http://y');
    } finally {
      vi.unstubAllEnvs();
    }
    expect(new Controller()).toMatchObject({ baseUrl: 'http://127.0.0.1:8889', timeoutMs: 60_000 });
    fake.token = 'correct-horse-battery';
    await expect(new Controller({ baseUrl: fake.url }).listSandboxes()).rejects.toMatchObject({ status: 401 });
    expect(await new Controller({ baseUrl: fake.url, token: fake.token }).listSandboxes()).toHaveLength(1);
  });

  test("keeps a body that is not JSON as it is, and rejects with fetch's own abort after its time", async () => {
    const { fetch } = recorded(502, '<h1>Bad Gateway</h1>');
    const error: unknown = await new Controller({ baseUrl: 'http://x', fetch })
      .listSandboxes()
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({
      body: '<h1>Bad Gateway</h1>',
      message: 'controller http://x/v1/sandboxes: HTTP 502: <h1>Bad Gateway</h1>',
    });
    fake.overrides.set('GET /v1/sandboxes', () => {});
    const impatient = new Controller({ baseUrl: fake.url, timeoutMs: 50 });
    await expect(impatient.listSandboxes()).rejects.toMatchObject({ name: 'AbortError' });
  });
});

describe('Sandbox', () => {
  test('creates, runs, branches and is killed once', async () => {
    let spawned: unknown;
    fake.overrides.set('POST /v1/sandboxes', async (request, response) => {
      spawned = await readJson(request);
      send(response, 201, [fake.addSandbox(ID)]);
    });
    const sandbox = await Sandbox.create({ snapshotTag: 'py', prewarm: true, baseUrl: fake.url });
    expect(spawned).toEqual({ snapshot_tag: 'py', n: 1, per_child_netns: false, prewarm: true });
    expect(sandbox.info.snapshot_tag).toBe('py');
    expect(await sandbox.exec(['true'])).toMatchObject({ exit_code: 0 });
    expect(await sandbox.eval('1+1')).toBe("'1+1'");
    await expect(sandbox.eval('raise')).rejects.toThrow('eval error: Traceback: x');
    expect(await sandbox.ping()).toEqual({ pong: true, pid: 1 });
    expect((await sandbox.branch({ tag: 'b2' })).tag).toBe('b2');
    await sandbox.kill();
    await sandbox.kill();
    expect(fake.sandboxes.size).toBe(0);
  });

  test('is killed however its use ends', async () => {
    fake.sandboxes.clear();
    const options = { snapshotTag: 'py', baseUrl: fake.url };
    expect(await Sandbox.with(options, async (sandbox) => sandbox.id)).toMatch(/^sb-/);
    const reason = new Error('enough');
    await expect(Sandbox.with(options, () => Promise.reject(reason))).rejects.toBe(reason);
    expect(fake.sandboxes.size).toBe(0);
  });
});
