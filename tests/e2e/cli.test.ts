/**
 * The command as a process against a real controller with real guests: what its verbs print, what they leave, and their exit
 * codes. What a script sees is what is looked at; what the controller has is asked of it, not of the command.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { REPO, TestController, until } from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const MAIN = join(REPO, 'packages/cli/bundle/forkd.js');
const WAIT_MS = 60_000;
/** The time to live of a sandbox of `forkd run`, and a second for rounding. */
const LEASE_SECS_MAX = 91;

interface Result {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Hears what a command says on its standard error while it runs. */
type OnStderr = (child: ReturnType<typeof spawn>, text: string) => void;

const test = base
  .extend('env', { scope: 'file' }, ({ controller }) => ({
    ...process.env,
    FORKD_URL: `unix:${controller.socket}`,
    NO_COLOR: '1',
  }))
  // Runs `forkd` to its end.
  .extend('forkd', { scope: 'file' }, ({ env }) => (args: readonly string[], onStderr?: OnStderr): Promise<Result> => {
    const child = spawn(process.execPath, [MAIN, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    const result: Result = { code: null, stdout: '', stderr: '' };
    child.stdout.on('data', (chunk: Buffer) => (result.stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => {
      result.stderr += chunk.toString();
      onStderr?.(child, result.stderr);
    });
    return new Promise((resolve) => {
      child.once('close', (code) => resolve({ ...result, code }));
    });
  })
  // Runs `forkd --json` and parses its output.
  .extend('json', { scope: 'file' }, ({ forkd }) => jsonOf(forkd))
  // The ids of the sandboxes that the controller has.
  .extend(
    'ids',
    { scope: 'file' },
    ({ client }) =>
      async () =>
        (await client.listSandboxes()).map(({ id }) => id),
  )
  // A controller of its own, with one sandbox of `forkd run`.
  .extend('throwaway', { scope: 'file' }, async ({}, { onCleanup }) => {
    const controller = await TestController.start({ template: true });
    onCleanup(() => controller[Symbol.asyncDispose]());
    const { client } = controller;
    const env = { ...process.env, FORKD_URL: `unix:${controller.socket}` };
    const child = spawn(process.execPath, [MAIN, 'run', 'base', 'sleep', '600'], { env, stdio: 'ignore' });
    const closed = new Promise((resolve) => child.once('close', resolve));
    const endsAt = async () => (await client.listSandboxes())[0]?.expires_at_unix ?? 0;
    await until('the sandbox runs', WAIT_MS, async () => (await endsAt()) > 0);
    const [{ id } = { id: '' }] = await client.listSandboxes();
    return { client, child, closed, id, endsAt, firstEndsAt: await endsAt() };
  });

function jsonOf(forkd: (args: readonly string[]) => Promise<Result>) {
  return async <T>(...args: string[]): Promise<T> => {
    const { code, stdout, stderr } = await forkd([...args, '--json']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    return JSON.parse(stdout) as T;
  };
}

// Starts first: the time to live is renewed after half a minute, in which the other tests run.
test.beforeAll(({ throwaway }) => void throwaway);

describe('a named sandbox', () => {
  let id: string;

  test('is found by name, by label and by state', async ({ forkd }) => {
    const forked = await forkd(['fork', 'base', '-q', '--name', 'web', '--label', 'team=core', '--ttl', '1h']);
    expect(forked).toMatchObject({ code: 0, stderr: '' });
    id = forked.stdout.trim();
    const other = (await forkd(['fork', '--tag', 'base', '-q'])).stdout.trim();
    expect((await forkd(['ls', '-q', '--label', 'team'])).stdout.trim()).toBe(id);
    expect(await forkd(['exec', 'web', '--', 'sh', '-c', 'hostname; exit 7'])).toMatchObject({
      code: 7,
      stdout: `${id}\n`,
    });
    expect((await forkd(['pause', 'web'])).stdout.trim()).toBe(id);
    expect((await forkd(['ls', '-q', '--state', 'running'])).stdout.trim()).toBe(other);
    expect(await forkd(['ping', 'web'])).toMatchObject({ code: 1, stderr: expect.stringContaining('forkd resume') });
    expect((await forkd(['resume', 'web'])).code).toBe(0);
    expect((await forkd(['ping', 'web'])).code).toBe(0);
    expect(await forkd(['fork', 'base', '--name', 'web'])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('HTTP 409'),
    });
    expect((await forkd(['kill', other])).stdout.trim()).toBe(other);
  });

  test('changes only the settings that `forkd update` names', async ({ forkd, json }) => {
    expect((await forkd(['update', 'web', '--name', 'api', '--label', 'stage=test', '--no-ttl'])).code).toBe(0);
    const info = await json<Record<string, unknown>>('inspect', 'api');
    expect(info).toMatchObject({ id, name: 'api', labels: { team: 'core', stage: 'test' } });
    expect(info).not.toHaveProperty('expires_at_unix');
    expect((await forkd(['update', 'api', '--remove-label', 'team', '--no-name'])).code).toBe(0);
    expect(await json('inspect', id)).toMatchObject({ labels: { stage: 'test' } });
    expect((await forkd(['ping', 'api'])).code).toBe(1);
  });

  test('appears in `forkd stats`, `forkd events` and `forkd tree`', async ({ controller, forkd, json, ids }) => {
    expect(await json('stats', id)).toMatchObject([{ id, state: 'running', private_bytes: expect.any(Number) }]);
    expect((await forkd(['snapshot', '--from-sandbox', id, '--tag', 'b1'])).stdout).toBe('b1\n');
    const [root] = await json<{ tag: string; children: { id: string; children: unknown[] }[] }[]>('tree');
    expect(root).toMatchObject({
      tag: 'base',
      children: [{ id, shared_bytes: expect.any(Number), children: [{ tag: 'b1', branched_from: id }] }],
    });
    const seen = await new Promise<string>((resolve) => {
      const env = { ...process.env, FORKD_URL: `unix:${controller.socket}` };
      const child = spawn(process.execPath, [MAIN, 'events', '--json', '--after', '0', '--sandbox', id], { env });
      let output = '';
      child.stdout.on('data', (chunk: Buffer) => {
        output += chunk.toString();
        if (output.includes('snapshot.ready')) child.kill('SIGINT');
      });
      child.once('close', () => resolve(output));
    });
    const lines = seen.trim().split('\n');
    const types = lines.map((line) => (JSON.parse(line) as { type: string }).type);
    expect(types).toEqual(expect.arrayContaining(['sandbox.created', 'sandbox.paused', 'snapshot.ready']));
    await forkd(['kill', '--all', '--label', 'stage=test']);
    expect(await ids()).toEqual([]);
    const [after] = await json<{ children: unknown[] }[]>('tree');
    expect(after).toMatchObject({ children: [{ tag: 'b1', children: [] }] });
  });
});

describe('forkd run', () => {
  test('ends with the exit code and the output of the command, and leaves no sandbox', async ({ forkd, ids }) => {
    const ran = await forkd(['run', 'base', '-e', 'A=1', '--', 'sh', '-c', 'echo $A; echo err >&2; exit 9']);
    // Options behind the tag are the command's.
    expect(ran.code).not.toBe(9);
    const right = await forkd(['run', '-e', 'A=1', 'base', '--', 'sh', '-c', 'echo $A; echo err >&2; exit 9']);
    expect(right).toEqual({ code: 9, stdout: '1\n', stderr: 'err\n' });
    expect((await forkd(['run', '--timeout', '1s', 'base', 'sleep', '60'])).code).toBe(124);
    expect(await ids()).toEqual([]);
  });
});

describe('forkd exec that is killed', () => {
  test('leaves no command', async ({ client, env, forkd }) => {
    const id = (await forkd(['fork', '-q', 'base'])).stdout.trim();
    const child = spawn(process.execPath, [MAIN, 'exec', id, 'sleep', '600'], { env, stdio: 'ignore' });
    const closed = new Promise((resolve) => child.once('close', resolve));
    await until('the command runs', WAIT_MS, async () => (await client.listCommands(id)).length === 1);
    child.kill('SIGKILL');
    await closed;
    await until('the command has ended', WAIT_MS, async () => (await client.listCommands(id)).length === 0);
    expect((await forkd(['kill', id])).code).toBe(0);
  });
});

describe('a sandbox that ends by itself', () => {
  test('says why, with the last lines of its console, and stays visible', async ({ client, forkd, json }) => {
    const id = (await forkd(['fork', '-q', 'base', '--name', 'brief'])).stdout.trim();
    const crash = 'echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 600';
    const during = await forkd(['exec', id, '--', 'sh', '-c', crash]);
    expect(during).toMatchObject({ code: 1, stderr: expect.stringContaining('ended by itself') });
    await until(
      'the sandbox has ended',
      WAIT_MS,
      async () => !(await client.listSandboxes()).some((one) => one.id === id),
    );
    const later = await forkd(['exec', 'brief', '--', 'true']);
    expect(later).toMatchObject({ code: 1, stderr: expect.stringContaining('the kernel of the guest panicked: ') });
    const shown = await json<Record<string, unknown>>('inspect', 'brief');
    expect(shown).toMatchObject({ id, state: 'ended', end_reason: 'guest_panicked' });
    expect((await forkd(['ls', '-a'])).stdout).toContain('ended (guest_panicked)');
  });
});

describe('forkd from-image', () => {
  test('shows what the warm-up command prints as it comes, and its last lines if it fails', async ({
    forkd,
    client,
  }) => {
    const script = 'echo first; until [ -e /go ]; do sleep 0.1; done; echo never';
    let isShown = false;
    const waiting = await forkd(
      ['from-image', 'busybox', '--tag', 'never', '--', 'sh', '-c', script],
      (child, text) => {
        // The command still runs while its first line is shown.
        if (!isShown && /^first$/m.test(text)) isShown = child.kill('SIGINT');
      },
    );
    expect({ isShown, code: waiting.code }).toEqual({ isShown: true, code: 130 });
    const failing = ['from-image', 'busybox', '--tag', 'never', '--', 'sh', '-c', 'echo said; exit 3'];
    const failed = await forkd(failing);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toMatch(/^said\n(?:.*\n)*error: .*exit code 3/m);
    expect(failed.stderr).toMatch(/hint: Its output ended with:\nsaid$/m);
    expect((await client.listSnapshots()).map(({ tag }) => tag)).not.toContain('never');
  });
});

describe('forkd snapshot-diff', () => {
  test('makes a layer of what the command changed, on top of its parent', async ({ forkd, json, ids }) => {
    const args = ['--from', 'base', '--tag', 'layer', '--exec', 'echo kept > /kept; echo said'];
    const made = await forkd(['snapshot-diff', ...args]);
    expect(made).toMatchObject({ code: 0, stdout: 'layer\n', stderr: expect.stringContaining('said') });
    expect((await forkd(['run', 'layer', 'cat', '/kept'])).stdout).toBe('kept\n');
    expect(await json('snapshot-info', 'layer')).toMatchObject({
      parent_tag: 'base',
      chain_depth: 1,
      ancestors: ['base'],
    });
    expect(await forkd(['snapshot-diff', ...args])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('"layer" already'),
    });
    expect(await ids()).toEqual([]);
  });

  test('leaves neither sandbox nor snapshot when the command fails or on Ctrl-C', async ({ client, forkd, ids }) => {
    const failed = await forkd([
      'snapshot-diff',
      '--from',
      'base',
      '--tag',
      'no',
      '--exec',
      'echo why; exit 4',
      '--json',
    ]);
    expect(failed).toMatchObject({ code: 1, stdout: '' });
    expect(JSON.parse(failed.stderr)).toMatchObject({ code: 'exec_failed', error: expect.stringContaining('why') });
    const args = ['snapshot-diff', '--from', 'base', '--tag', 'no', '--exec', 'echo begun; sleep 600'];
    let isInterrupted = false;
    const interrupted = await forkd(args, (child, text) => {
      if (!isInterrupted && /^begun$/m.test(text)) isInterrupted = child.kill('SIGINT');
    });
    expect(interrupted.code).toBe(130);
    expect(await ids()).toEqual([]);
    expect((await client.listSnapshots()).map(({ tag }) => tag)).not.toContain('no');
  });
});

describe('the commands for snapshots', () => {
  test('compact, refuse to remove, prune and remove', async ({ client, forkd, json }) => {
    expect((await forkd(['snapshot-compact', 'layer', '--to', 'flat'])).stdout).toBe('flat\n');
    expect(await json('snapshot-info', 'flat')).toMatchObject({ chain_depth: 0 });
    expect((await forkd(['run', 'flat', 'cat', '/kept'])).stdout).toBe('kept\n');
    expect((await forkd(['rmi', 'base'])).stderr).toMatch(/^error: .*HTTP 409/);
    const made = await forkd(['snapshot-diff', '--from', 'flat', '--tag', 'on-flat', '--exec', 'true']);
    expect(made.code).toBe(0);
    const removed = await forkd(['rmi', '--cascade', 'flat', 'on-flat']);
    expect({ ...removed, stdout: removed.stdout.split('\n').toSorted() }).toMatchObject({
      code: 0,
      stdout: ['', 'flat', 'on-flat'],
    });
    expect((await forkd(['prune', '--keep', '0', '--dry-run'])).stdout.split('\n')).toEqual(
      expect.arrayContaining(['b1', 'layer']),
    );
    expect((await forkd(['prune', '--older-than', '0'])).code).toBe(0);
    const left = (await client.listSnapshots()).map(({ tag }) => tag);
    expect(left).toContain('base');
    expect(left).not.toContain('b1');
  });
});

describe('a workspace', () => {
  test('resumes under its name with the files that it had', async ({ forkd, json, ids }) => {
    const first = (await forkd(['workspace', 'create', '-q', 'dev', '--snapshot', 'base'])).stdout.trim();
    expect(await ids()).toEqual([first]);
    expect((await forkd(['exec', 'dev', 'sh', '-c', 'echo mine > /mine'])).code).toBe(0);
    expect((await forkd(['workspace', 'suspend', 'dev'])).code).toBe(0);
    expect(await ids()).toEqual([]);
    const second = (await forkd(['workspace', 'resume', '-q', 'dev'])).stdout.trim();
    expect((await forkd(['exec', 'dev', 'cat', '/mine'])).stdout).toBe('mine\n');
    expect(await json('workspace', 'get', 'dev')).toMatchObject({ status: 'running', live_sandbox_id: second });
    expect((await forkd(['workspace', 'list', '-q'])).stdout).toBe('dev\n');
  });

  test('survives `forkd cleanup` and `forkd kill --all`, which say so', async ({ forkd, ids }) => {
    const stray = (await forkd(['fork', '-q', 'base'])).stdout.trim();
    expect(await forkd(['cleanup', '--yes'])).toMatchObject({
      code: 0,
      stdout: 'removed: 0 failed snapshots\n',
      stderr: expect.stringContaining('2 sandboxes stay'),
    });
    expect(await ids()).toContain(stray);
    expect(await forkd(['kill', '--all'])).toMatchObject({
      code: 0,
      stdout: `${stray}\n`,
      stderr: expect.stringContaining('1 workspace not touched: dev.'),
    });
    expect(await ids()).toHaveLength(1);
  });

  test('is told to have lost what it did when its sandbox is killed by name', async ({ forkd, ids }) => {
    expect((await forkd(['kill', 'dev'])).stderr).toContain('Workspace "dev" has lost what it did');
    expect((await forkd(['workspace', 'resume', 'dev'])).code).toBe(0);
    expect((await forkd(['workspace', 'delete', 'dev'])).stdout).toBe('dev\n');
    await until('the sandbox has ended', WAIT_MS, async () => (await ids()).length === 0);
  });
});

describe('forkd run that is killed', () => {
  test('leaves its sandbox the rest of its time to live, which it renewed', async ({ throwaway }) => {
    const { client, child, closed, id, endsAt, firstEndsAt } = throwaway;
    await until('the time to live is renewed', WAIT_MS, async () => (await endsAt()) > firstEndsAt);
    child.kill('SIGKILL');
    await closed;
    expect(await endsAt()).toBeLessThanOrEqual(Date.now() / 1000 + LEASE_SECS_MAX);
    // Nothing renews it now, so the test need not wait for all of it.
    await client.updateSandbox(id, { ttl_secs: 1 });
    await until('the sandbox has ended', WAIT_MS, async () => (await client.listSandboxes()).length === 0);
  });
});
