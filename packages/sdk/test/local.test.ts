// Proves that a local controller is found, started, and told apart from one that cannot start; and that several that
// start at once end up with one. The controller here is a small program that binds the socket or loses the race.
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ForkdClient, Sandbox } from '../src/index.ts';
import { defaultDataDir, ensureController, localClient, localPaths } from '../src/local/index.ts';

const PROGRAM = `
import http from 'node:http';
import { appendFileSync } from 'node:fs';
const args = process.argv.slice(2);
const valueOf = (name) => args[args.indexOf(name) + 1];
const dataDir = valueOf('--data-dir');
appendFileSync(dataDir + '/starts', process.pid + ' ' + args.join(' ') + '\\n');
const server = http.createServer((request, response) => response.end('{"ok":true}'));
server.on('error', (error) => { console.error('lost: ' + error.code); process.exit(1); });
setTimeout(() => server.listen(valueOf('--socket')), 100);
`;

let dataDir: string;

beforeEach(async () => {
  dataDir = await mkdtemp(join(os.tmpdir(), 'forkd-local-'));
  await useProgram(PROGRAM);
});

afterEach(async () => {
  for (const pid of await startedPids()) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended by itself.
    }
  }
  delete process.env['FORKD_CONTROLLER_BIN'];
  await rm(dataDir, { recursive: true, force: true });
});

async function useProgram(text: string): Promise<void> {
  const file = join(dataDir, 'controller.mjs');
  await writeFile(file, text);
  process.env['FORKD_CONTROLLER_BIN'] = file;
}

async function startedPids(): Promise<number[]> {
  const text = await readFile(join(dataDir, 'starts'), 'utf8').catch(() => '');
  return text
    .split('\n')
    .filter((entry) => entry !== '')
    .map((entry) => Number.parseInt(entry, 10));
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe('ensureController', () => {
  test('starts one, with the arguments that it needs, and finds it again', async () => {
    const first = await ensureController({ dataDir, autostart: true });
    expect(first).toMatchObject({ started: true, dataDir, socket: join(dataDir, 'run', 'controller.sock') });
    expect(await first.client.health()).toEqual({ ok: true });
    const second = await ensureController({ dataDir, autostart: true });
    expect(second.started).toBe(false);
    const starts = await readFile(join(dataDir, 'starts'), 'utf8');
    expect(starts.trim().split('\n')).toHaveLength(1);
    expect(starts).toContain(`serve --data-dir ${dataDir} --socket ${first.socket} --no-tcp --idle-exit-secs 300`);
  });

  test('has one winner when several start at once', async () => {
    const all = await Promise.all(Array.from({ length: 4 }, () => ensureController({ dataDir, autostart: true })));
    for (const found of all) expect(await found.client.health()).toEqual({ ok: true });
    // A loser ends a moment after its starter has found the winner.
    await expect.poll(async () => (await startedPids()).filter(isRunning).length, { timeout: 10_000 }).toBe(1);
  });

  test('starts none unless it may', async () => {
    await expect(ensureController({ dataDir, autostart: false })).rejects.toMatchObject({
      code: 'controller_not_running',
    });
    expect(await startedPids()).toEqual([]);
  });

  test('shows the end of the log of one that cannot start', { timeout: 20_000 }, async () => {
    await useProgram('console.error("no such option: --no-tcp"); process.exit(2);');
    await expect(ensureController({ dataDir, autostart: true })).rejects.toThrow(/exit code 2:\nno such option/);
  });

  test('says that there is no program', async () => {
    process.env['FORKD_CONTROLLER_BIN'] = join(dataDir, 'none');
    await expect(ensureController({ dataDir, autostart: true })).rejects.toMatchObject({ code: 'controller_missing' });
  });

  test('ends the one that it started when it is aborted', async () => {
    await useProgram(PROGRAM.replace('100', '60000'));
    const abort = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => abort.abort(reason), 500);
    await expect(ensureController({ dataDir, autostart: true, signal: abort.signal })).rejects.toBe(reason);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect((await startedPids()).filter(isRunning)).toEqual([]);
  });
});

describe('localClient', () => {
  test('starts a controller at the first request, says so once, and sends the request to it', async () => {
    const told: string[] = [];
    const client = localClient({ dataDir, autostart: true, onStart: (directory) => told.push(directory) });
    expect(await startedPids()).toEqual([]);
    await Promise.all([client.version(), client.version()]);
    expect(await startedPids()).toHaveLength(1);
    expect(told).toEqual([dataDir]);
  });

  test('asks a controller that runs nothing but what is asked of it', async () => {
    const asked: string[] = [];
    const server = http.createServer((request, response) => {
      asked.push(`${request.method} ${request.url}`);
      response.end('[]');
    });
    const { socket, runDir } = localPaths({ dataDir });
    await mkdir(runDir);
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    try {
      await localClient({ dataDir, autostart: true }).listSandboxes();
      expect(asked).toEqual(['GET /v1/sandboxes']);
    } finally {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
    expect(await startedPids()).toEqual([]);
  });

  test('does not replace a controller that has answered and is gone', async () => {
    const client = localClient({ dataDir, autostart: true });
    await client.version();
    const [pid = 0] = await startedPids();
    process.kill(pid, 'SIGKILL');
    await expect.poll(() => isRunning(pid)).toBe(false);
    await expect(client.health()).rejects.toMatchObject({
      code: expect.stringMatching('connection_failed|stream_cut'),
    });
    expect(await startedPids()).toHaveLength(1);
  });

  test('has a controller running before a body that can be sent only once', async () => {
    const client = localClient({ dataDir, autostart: true });
    async function* body() {
      yield Buffer.from('once');
    }
    await client.writeFile('sb-0000000001', '/tmp/x', body());
    expect(await startedPids()).toHaveLength(1);
  });

  test('starts none unless it may', async () => {
    const client = localClient({ dataDir, autostart: false });
    await expect(client.version()).rejects.toMatchObject({ code: 'controller_not_running' });
    expect(await startedPids()).toEqual([]);
  });
});

describe('a client that names no controller', () => {
  const named = ['FORKD_URL', 'FORKD_SOCKET', 'FORKD_DATA_DIR'];
  const before = named.map((name) => process.env[name]);

  beforeEach(() => {
    for (const name of named) delete process.env[name];
    process.env['FORKD_DATA_DIR'] = dataDir;
  });

  afterEach(() => {
    for (const [index, name] of named.entries()) {
      if (before[index] === undefined) delete process.env[name];
      else process.env[name] = before[index];
    }
  });

  test('starts the controller of the data directory at its first request, and says where it is', async () => {
    const client = new ForkdClient();
    expect(await client.health()).toEqual({ ok: true });
    expect(client.place).toBe(`unix:${localPaths().socket}`);
    await client.version();
    expect(await startedPids()).toHaveLength(1);
  });

  test('finds the controller that runs at FORKD_SOCKET', async () => {
    const socket = join(dataDir, 'elsewhere.sock');
    await ensureController({ socket, autostart: true, dataDir });
    process.env['FORKD_SOCKET'] = socket;
    expect(await new ForkdClient().health()).toEqual({ ok: true });
    expect(await startedPids()).toHaveLength(1);
  });

  test('is not used if FORKD_URL names one', async () => {
    process.env['FORKD_URL'] = `unix:${join(dataDir, 'none.sock')}`;
    await expect(Sandbox.list()).rejects.toMatchObject({ code: 'connection_failed' });
    expect(await startedPids()).toEqual([]);
  });

  test('stops waiting for a controller that starts slowly when its caller aborts', async () => {
    await useProgram(PROGRAM.replace('100', '60000'));
    const abort = new AbortController();
    const reason = new Error('enough');
    const version = new ForkdClient().version({ signal: abort.signal });
    await expect.poll(startedPids, { timeout: 20_000 }).toHaveLength(1);
    abort.abort(reason);
    await expect(version).rejects.toBe(reason);
  });
});

describe('paths', () => {
  test('takes the named place, then that of the system', () => {
    expect(defaultDataDir({ FORKD_DATA_DIR: '/srv/f' })).toBe('/srv/f');
    const own = defaultDataDir({ XDG_DATA_HOME: '/x' });
    expect(own).toBe(process.geteuid?.() === 0 ? '/var/lib/forkd' : '/x/forkd');
  });

  test('refuses a socket path that the kernel would cut off', () => {
    expect(() => localPaths({ dataDir: `/${'d'.repeat(120)}` })).toThrow(/longer than 107 bytes/);
  });
});
