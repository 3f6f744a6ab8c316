// Proves the command as users run it: a real process, against a real server whose guests are processes of this host.
// What is looked at is what a script sees: stdout, stderr, the exit code.
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FakeController } from '../../sdk/test/support/fake-controller.ts';
import { commands, helpText } from '../src/index.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const ID = 'sb-00000000aa';

let fake: FakeController;
let here: string;

beforeAll(async () => {
  fake = await FakeController.start();
  here = await mkdtemp(path.join(os.tmpdir(), 'forkd-cli-'));
});
afterAll(async () => {
  await fake.stop();
  await rm(here, { recursive: true, force: true });
});
beforeEach(() => {
  fake.sandboxes.clear();
  fake.snapshots.clear();
  fake.sessions.clear();
  fake.overrides.clear();
  fake.seen.length = 0;
  fake.addSnapshot('python');
  fake.addSandbox(ID, 'python');
  fake.addSandbox('sb-00000000ab', 'python');
});

type Result = { code: number | null; stdout: Buffer; stderr: string };
type RunOptions = { stdin?: string | Buffer; onStdout?: (child: ReturnType<typeof spawn>, text: string) => void };

function forkd(args: readonly string[], options: RunOptions = {}): Promise<Result> {
  const env = { ...process.env, FORKD_URL: `unix:${fake.socket}`, NO_COLOR: '1' };
  const child = spawn(process.execPath, [MAIN, ...args], { env, cwd: here, stdio: ['pipe', 'pipe', 'pipe'] });
  const stdout: Buffer[] = [];
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout.push(chunk);
    options.onStdout?.(child, chunk.toString());
  });
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  // Not every command reads what it is given.
  child.stdin.on('error', () => {});
  if (options.stdin !== undefined) child.stdin.end(options.stdin);
  return new Promise((resolve) => {
    child.once('close', (code) => resolve({ code, stdout: Buffer.concat(stdout), stderr }));
  });
}

describe('help and usage', () => {
  it('has an example and a summary for every verb, and no verb that is not there', async () => {
    const { stdout, code } = await forkd(['--help']);
    expect(code).toBe(0);
    const listed = [...stdout.toString().matchAll(/^  ([a-z][a-z-]*)[| ]/gm)].map((match) => match[1]);
    expect(listed.filter((verb) => verb !== 'help')).toEqual(commands.map((command) => command.name));
    for (const command of commands) {
      expect(command.examples.length).toBeGreaterThan(0);
      for (const example of command.examples) expect(example.line).toContain('forkd ');
      expect(helpText(command.name, process)).toContain(command.summary);
    }
  });

  it('shows the examples of a verb', async () => {
    const { stdout, code } = await forkd(['fork', '--help']);
    expect(code).toBe(0);
    expect(stdout.toString()).toContain('forkd fork --tag python -n 10');
    expect(stdout.toString()).not.toContain('--live-fork');
  });

  it.each([
    [['bogus']],
    [[]],
    [['fork']],
    [['fork', '--tag', 'x', '-n', '1001']],
    [['fork', '--tag', 'x', '--nonsense']],
    [['exec', ID]],
    [['kill']],
    [['kill', '--all', ID]],
    [['rmi', '--cascade', '--force', 'python']],
    [['snapshot', '--tag', 'x']],
    [['snapshot', '--from-sandbox', ID, '--live', '--diff']],
    [['from-image', 'python', '--tag', 'no tag']],
    [['cp', 'a', 'b']],
    [['attach', ID, '--from-offset', '-1']],
  ])('exits with 2 for %j', async (args) => {
    const { code, stderr } = await forkd(args);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining('error: ') });
  });

  it('prints an error as one object with --json', async () => {
    const { code, stderr, stdout } = await forkd(['ping', 'sb-nope', '--json']);
    expect(code).toBe(1);
    expect(stdout).toHaveLength(0);
    expect(JSON.parse(stderr)).toMatchObject({ code: 'not_found_sandbox', error: expect.stringContaining('sb-nope') });
  });
});

describe('exec', () => {
  it('passes bytes, streams and the exit code through', async () => {
    const result = await forkd(['exec', ID, '--', 'sh', '-c', 'printf "\\377\\000a"; echo bad >&2; exit 7']);
    expect(result.code).toBe(7);
    expect([...result.stdout]).toEqual([0xff, 0, 0x61]);
    expect(result.stderr).toBe('bad\n');
    expect(fake.sessions.size).toBe(0);
  });

  it('needs no dashes, and leaves the options of the command alone', async () => {
    const result = await forkd(['exec', 'sb-00000000aa', 'echo', '-n', '--json', '-q']);
    expect(result.stdout.toString()).toBe('--json -q');
  });

  it('forwards stdin to its end', async () => {
    const bytes = Buffer.alloc(300_000, 'stdin ');
    const result = await forkd(['exec', '-i', ID, '--', 'cat'], { stdin: bytes });
    expect(result.code).toBe(0);
    expect(result.stdout.equals(bytes)).toBe(true);
  });

  it('ends when the command does, although stdin is still open', async () => {
    expect((await forkd(['exec', '-i', ID, '--', 'true'])).code).toBe(0);
  });

  it('takes variables, a directory and a time', async () => {
    const args = [
      'exec',
      '-e',
      'A=1 2',
      '-w',
      '/tmp',
      '--timeout',
      '0.5',
      ID,
      '--',
      'sh',
      '-c',
      'echo "$A $PWD"; sleep 60',
    ];
    const result = await forkd(args);
    expect(result.code).toBe(124);
    expect(result.stdout.toString()).toBe('1 2 /tmp\n');
    expect(result.stderr).toContain('0.5 s');
  });

  it('sends Ctrl-C to the command and takes its exit code', async () => {
    const script = 'trap "echo caught; exit 9" INT; echo ready; while :; do sleep 0.1; done';
    const result = await forkd(['exec', ID, '--', 'bash', '-c', script], {
      onStdout: (child, text) => void (text.includes('ready') && child.kill('SIGINT')),
    });
    expect(result.stdout.toString()).toBe('ready\ncaught\n');
    expect(result.code).toBe(9);
  });

  it('tells all at the end with --json', async () => {
    const result = await forkd(['exec', '--json', ID, '--', 'sh', '-c', 'echo out; echo err >&2; exit 3']);
    expect(JSON.parse(result.stdout.toString())).toEqual({ stdout: 'out\n', stderr: 'err\n', exit_code: 3 });
    expect(result.code).toBe(3);
  });

  it('leaves a command running with -d, for attach', async () => {
    const started = await forkd(['exec', '-d', ID, '--', 'sh', '-c', 'echo 0123456789; sleep 0.5; exit 4']);
    const commandId = started.stdout.toString().trim();
    expect(started.code).toBe(0);
    const attached = await forkd(['attach', ID, commandId, '--from-offset', '5'], { stdin: '' });
    expect(attached.stdout.toString()).toBe('56789\n');
    expect(attached.code).toBe(4);
    const list = await forkd(['attach', '--list', ID, '--json']);
    expect(JSON.parse(list.stdout.toString())).toMatchObject([{ id: commandId, running: false, exit_code: 4 }]);
  });

  it('feeds an attached command, but an empty stdin closes nothing', async () => {
    await forkd(['exec', '-d', ID, '--', 'true']);
    fake.sessions.clear();
    const client = await fetchCommand(['sh', '-c', 'read line; echo "got $line"']);
    const empty = forkd(['attach', ID], { stdin: '' });
    const fed = await forkd(['attach', ID, client], { stdin: 'hello\n' });
    expect(fed.stdout.toString()).toBe('got hello\n');
    expect((await empty).stdout.toString()).toBe('got hello\n');
  });

  it('lists the commands where it is not clear which is meant', async () => {
    await forkd(['exec', '-d', ID, '--', 'sleep', '60']);
    await forkd(['exec', '-d', ID, '--', 'sleep', '61']);
    const result = await forkd(['attach', ID]);
    expect(result.code).toBe(1);
    expect(result.stdout.toString()).toContain('sleep 61');
    expect(result.stderr).toContain('2 commands');
  });
});

async function fetchCommand(args: string[]): Promise<string> {
  const { ForkdClient } = await import('@forkd/sdk');
  const client = new ForkdClient({ socket: fake.socket });
  return (await client.startCommand(ID, { args, stdin: true })).id;
}

describe('sandboxes and snapshots', () => {
  it('forks by a prefix, and prints the ids', async () => {
    const args = ['fork', '--tag', 'pyth', '-n', '3', '--live-fork', '--per-child-netns', '--memory-limit-mib', '64'];
    const result = await forkd(args);
    expect(result.stdout.toString().trim().split('\n')).toHaveLength(3);
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({
      snapshot_tag: 'python',
      n: 3,
      live_fork: true,
      per_child_netns: true,
      memory_limit_mib: 64,
    });
    const json = await forkd(['spawn', '--tag', 'python', '--json']);
    expect(JSON.parse(json.stdout.toString())).toMatchObject([{ snapshot_tag: 'python' }]);
  });

  it('lists, quietly and not', async () => {
    expect((await forkd(['ls'])).stdout.toString()).toMatch(/^SANDBOX +SNAPSHOT/);
    expect((await forkd(['ps', '-q'])).stdout.toString()).toBe(`${ID}\nsb-00000000ab\n`);
    expect((await forkd(['images', '-q'])).stdout.toString()).toBe('python\n');
    expect((await forkd(['images'])).stdout.toString()).toContain('ready');
  });

  it('names the candidates of a prefix that two have', async () => {
    const result = await forkd(['ping', 'sb-0']);
    expect(result.code).toBe(1);
    expect(result.stderr).toContain(`${ID}, sb-00000000ab`);
  });

  it('kills several, and all', async () => {
    expect((await forkd(['kill', ID])).stdout.toString()).toBe(`${ID}\n`);
    expect((await forkd(['kill', ID])).code).toBe(1);
    expect((await forkd(['kill', '--all', '--json'])).stdout.toString()).toContain('sb-00000000ab');
    expect(fake.sandboxes.size).toBe(0);
  });

  it('branches live by default, and as it is told', async () => {
    const live = await forkd(['snapshot', '--from-sandbox', ID, '--tag', 'b1']);
    expect(live.stdout.toString()).toBe('b1\n');
    expect(live.stderr).toContain('paused 2.50 ms');
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({ mode: 'live', wait: true, tag: 'b1' });
    await forkd(['snapshot', '--from-sandbox', ID, '--tag', 'b2', '--live', '--no-wait']);
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({ mode: 'live', wait: false, tag: 'b2' });
    await forkd(['snapshot', '--from-sandbox', ID, '--tag', 'b3', '--full', '--until', 'ready']);
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({ mode: 'full', wait: true, until: 'ready', tag: 'b3' });
  });

  it('says HTTP 409 where others depend on a snapshot', async () => {
    fake.addSnapshot('child', { branched_from: 'python' });
    const refused = await forkd(['rmi', 'python']);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/^error: .*child.*HTTP 409/);
    expect((await forkd(['rmi', '--cascade', 'python'])).code).toBe(0);
  });

  it('builds a template, with its stages on stderr', async () => {
    const args = [
      'from-image',
      './root',
      '--tag',
      'mine',
      '--warm',
      'import numpy',
      '--mem-mib',
      '256',
      '--',
      'fill',
      '--all',
    ];
    const result = await forkd(args);
    expect(result.stdout.toString()).toBe('mine\n');
    expect(result.stderr).toContain('boot        booting');
    expect(JSON.parse(fake.seen.at(-1)?.body ?? '')).toEqual({
      tag: 'mine',
      source: path.join(here, 'root'),
      warm: 'import numpy',
      mem_mib: 256,
      warm_command: ['fill', '--all'],
    });
  });

  it('evaluates, from the command line and from stdin', async () => {
    expect((await forkd(['eval', ID, '1+1'])).stdout.toString()).toBe("'1+1'\n");
    expect((await forkd(['eval', ID, '-'], { stdin: '2+2' })).stdout.toString()).toBe("'2+2'\n");
    const failed = await forkd(['eval', ID, 'raise']);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain('Traceback');
  });
});

describe('cp', () => {
  it('copies a tree in and out again, with modes, empty directories and odd names', async () => {
    const tree = path.join(here, 'tree');
    await mkdir(path.join(tree, 'sub', 'empty'), { recursive: true });
    await writeFile(path.join(tree, 'run.sh'), '#!/bin/sh\n', { mode: 0o755 });
    await writeFile(path.join(tree, 'sub', 'ä b:c'), Buffer.from([0, 255, 10]));
    const copiedIn = await forkd(['cp', 'tree', `${ID}:/srv/app`]);
    expect(copiedIn).toMatchObject({ code: 0, stderr: '2 files, 13 B\n' });
    expect((await stat(fake.guestPath('/srv/app/sub/empty'))).isDirectory()).toBe(true);
    const copiedOut = await forkd(['cp', `${ID}:/srv/app`, 'back']);
    expect(copiedOut.code).toBe(0);
    expect([...(await readFile(path.join(here, 'back', 'sub', 'ä b:c')))]).toEqual([0, 255, 10]);
    expect((await stat(path.join(here, 'back', 'run.sh'))).mode & 0o777).toBe(0o755);
    expect((await stat(path.join(here, 'back', 'sub', 'empty'))).isDirectory()).toBe(true);
    await forkd(['cp', `${ID}:/srv/app`, 'back']);
    expect((await stat(path.join(here, 'back', 'app', 'run.sh'))).mode & 0o777).toBe(0o755);
  });

  it('copies from stdin and to stdout', async () => {
    expect((await forkd(['cp', '-', `${ID}:/tmp/x`], { stdin: 'piped' })).code).toBe(0);
    expect((await forkd(['cp', `${ID}:/tmp/x`, '-'])).stdout.toString()).toBe('piped');
  });

  it('says which file is missing, here and there', async () => {
    const missing = await forkd(['cp', `${ID}:/nope`, 'x']);
    expect(missing).toMatchObject({ code: 1, stderr: expect.stringContaining('/nope') });
    const local = await forkd(['cp', 'nope', `${ID}:/x`]);
    expect(local).toMatchObject({ code: 1, stderr: expect.stringMatching(/^error: ENOENT.*nope/) });
  });
});

describe('host', () => {
  it('prints the rows of the doctor', async () => {
    const result = await forkd(['doctor', '--json']);
    const { rows } = JSON.parse(result.stdout.toString()) as { rows: { id: string; status: string }[] };
    expect(rows.map((row) => row.id)).toEqual([
      'platform',
      'kvm',
      'accelerator',
      'qemu',
      'image_tools',
      'uffd_wp',
      'memfd',
      'data_dir',
      'free_space',
      'controller',
    ]);
    expect(rows.find((row) => row.id === 'controller')?.status).toBe('pass');
    expect(result.code).toBe(rows.some((row) => row.status === 'fail') ? 1 : 0);
  });

  it('prints both versions', async () => {
    expect((await forkd(['version'])).stdout.toString()).toMatch(/^forkd \S+\ncontroller 9\.9\.9\n$/);
  });

  it('says where nobody answers', async () => {
    const result = await forkd(['ls', '--daemon-url', 'http://127.0.0.1:9999']);
    expect(result).toMatchObject({ code: 1, stderr: expect.stringContaining('http://127.0.0.1:9999') });
  });
});
