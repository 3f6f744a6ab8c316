/**
 * The command as a process against a real controller with real guests: what its verbs print, what they leave, and their exit
 * codes. What a script sees is what is looked at; what the controller has is asked of it, not of the command.
 */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { REPO } from '@forkd/lab';
import { makeTemplate, TestController, until } from '@forkd/testing';

const MAIN = path.join(REPO, 'packages/cli/dist/main.js');
const WAIT_MS = 60_000;

let controller: TestController;

beforeAll(async () => {
  controller = await TestController.start();
  await makeTemplate(controller.client);
});

afterAll(async () => {
  await controller?.[Symbol.asyncDispose]();
});

type Result = { code: number | null; stdout: string; stderr: string };

/** Runs `forkd` to its end; `onStderr` sees what it says meanwhile. */
function forkd(args: readonly string[], onStderr?: (child: ReturnType<typeof spawn>, text: string) => void) {
  const env = { ...process.env, FORKD_URL: `unix:${controller.socket}`, NO_COLOR: '1' };
  const child = spawn(process.execPath, [MAIN, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const result: Result = { code: null, stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (result.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => {
    result.stderr += chunk.toString();
    onStderr?.(child, result.stderr);
  });
  return new Promise<Result>((resolve) => {
    child.once('close', (code) => resolve({ ...result, code }));
  });
}

async function json<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await forkd([...args, '--json']);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as T;
}

const ids = async () => (await controller.client.listSandboxes()).map(({ id }) => id);

describe('a sandbox with a name', () => {
  let id: string;

  it('is found by it, by its label and by its state', async () => {
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

  it('changes what it is told to, and nothing else', async () => {
    expect((await forkd(['update', 'web', '--name', 'api', '--label', 'stage=test', '--no-ttl'])).code).toBe(0);
    const info = await json<Record<string, unknown>>('inspect', 'api');
    expect(info).toMatchObject({ id, name: 'api', labels: { team: 'core', stage: 'test' } });
    expect(info).not.toHaveProperty('expires_at_unix');
    expect((await forkd(['update', 'api', '--remove-label', 'team', '--no-name'])).code).toBe(0);
    expect(await json('inspect', id)).toMatchObject({ labels: { stage: 'test' } });
    expect((await forkd(['ping', 'api'])).code).toBe(1);
  });

  it('is told of in stats, in events and in the tree', async () => {
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

describe('run', () => {
  it('has the exit code and the output of the command, and leaves no sandbox', async () => {
    const ran = await forkd(['run', 'base', '-e', 'A=1', '--', 'sh', '-c', 'echo $A; echo err >&2; exit 9']);
    // Options behind the tag are the command's.
    expect(ran.code).not.toBe(9);
    const right = await forkd(['run', '-e', 'A=1', 'base', '--', 'sh', '-c', 'echo $A; echo err >&2; exit 9']);
    expect(right).toEqual({ code: 9, stdout: '1\n', stderr: 'err\n' });
    expect((await forkd(['run', '--timeout', '1s', 'base', 'sleep', '60'])).code).toBe(124);
    expect(await ids()).toEqual([]);
  });
});

describe('snapshot-diff', () => {
  it('makes a layer of what the command has changed, on its parent', async () => {
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

  it('leaves neither sandbox nor snapshot where the command fails, nor on Ctrl-C', async () => {
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
    expect((await controller.client.listSnapshots()).map(({ tag }) => tag)).not.toContain('no');
  });
});

describe('snapshots', () => {
  it('are made flat, refused, pruned and removed', async () => {
    expect((await forkd(['snapshot-compact', 'layer', '--to', 'flat'])).stdout).toBe('flat\n');
    expect(await json('snapshot-info', 'flat')).toMatchObject({ chain_depth: 0 });
    expect((await forkd(['run', 'flat', 'cat', '/kept'])).stdout).toBe('kept\n');
    expect((await forkd(['rmi', 'base'])).stderr).toMatch(/^error: .*HTTP 409/);
    expect((await forkd(['prune', '--keep', '0', '--dry-run'])).stdout.split('\n')).toEqual(
      expect.arrayContaining(['b1', 'layer']),
    );
    expect((await forkd(['prune', '--older-than', '0'])).code).toBe(0);
    const left = (await controller.client.listSnapshots()).map(({ tag }) => tag);
    expect(left).toContain('base');
    expect(left).not.toContain('b1');
  });
});

describe('workspace', () => {
  it('goes on where it was suspended, under its name', async () => {
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

  it('is left alone by cleanup, which says what it would do before it does', async () => {
    const stray = (await forkd(['fork', '-q', 'base'])).stdout.trim();
    const asked = await forkd(['cleanup']);
    expect(asked).toMatchObject({ code: 0, stderr: expect.stringContaining(stray) });
    expect(await ids()).toContain(stray);
    expect(await forkd(['cleanup', '--yes'])).toMatchObject({ code: 0, stdout: expect.stringContaining('1 virtual') });
    expect(await ids()).toHaveLength(1);
    expect((await forkd(['workspace', 'delete', 'dev'])).stdout).toBe('dev\n');
    await until('the sandbox has ended', WAIT_MS, async () => (await ids()).length === 0);
  });
});
