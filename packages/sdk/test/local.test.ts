// Proves that a local controller is found, started, and told apart from one that cannot start; and that several that
// start at once end up with one. The controller here is a small program that binds the socket or loses the race.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { defaultDataDir, ensureController, localPaths } from '../src/local/index.ts';

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
  dataDir = await mkdtemp(path.join(os.tmpdir(), 'forkd-local-'));
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
  const file = path.join(dataDir, 'controller.mjs');
  await writeFile(file, text);
  process.env['FORKD_CONTROLLER_BIN'] = file;
}

async function startedPids(): Promise<number[]> {
  const text = await readFile(path.join(dataDir, 'starts'), 'utf8').catch(() => '');
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
  it('starts one, with the arguments that it needs, and finds it again', async () => {
    const first = await ensureController({ dataDir, autostart: true });
    expect(first).toMatchObject({ started: true, dataDir, socket: path.join(dataDir, 'run', 'controller.sock') });
    expect(await first.client.health()).toEqual({ ok: true });
    const second = await ensureController({ dataDir, autostart: true });
    expect(second.started).toBe(false);
    const starts = await readFile(path.join(dataDir, 'starts'), 'utf8');
    expect(starts.trim().split('\n')).toHaveLength(1);
    expect(starts).toContain(`serve --data-dir ${dataDir} --socket ${first.socket} --no-tcp --idle-exit-secs 300`);
  });

  it('has one winner when several start at once', async () => {
    const all = await Promise.all(Array.from({ length: 4 }, () => ensureController({ dataDir, autostart: true })));
    for (const found of all) expect(await found.client.health()).toEqual({ ok: true });
    // A loser ends a moment after its starter has found the winner.
    await expect.poll(async () => (await startedPids()).filter(isRunning).length, { timeout: 10_000 }).toBe(1);
  });

  it('starts none unless it may', async () => {
    await expect(ensureController({ dataDir, autostart: false })).rejects.toMatchObject({
      code: 'controller_not_running',
    });
    expect(await startedPids()).toEqual([]);
  });

  it('shows the end of the log of one that cannot start', { timeout: 20_000 }, async () => {
    await useProgram('console.error("no such option: --no-tcp"); process.exit(2);');
    await expect(ensureController({ dataDir, autostart: true })).rejects.toThrow(/exit code 2:\nno such option/);
  });

  it('says that there is no program', async () => {
    process.env['FORKD_CONTROLLER_BIN'] = path.join(dataDir, 'none');
    await expect(ensureController({ dataDir, autostart: true })).rejects.toMatchObject({ code: 'controller_missing' });
  });

  it('ends the one that it started when it is aborted', async () => {
    await useProgram(PROGRAM.replace('100', '60000'));
    const abort = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => abort.abort(reason), 500);
    await expect(ensureController({ dataDir, autostart: true, signal: abort.signal })).rejects.toBe(reason);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect((await startedPids()).filter(isRunning)).toEqual([]);
  });
});

describe('paths', () => {
  it('takes the named place, then that of the system', () => {
    expect(defaultDataDir({ FORKD_DATA_DIR: '/srv/f' })).toBe('/srv/f');
    const own = defaultDataDir({ XDG_DATA_HOME: '/x' });
    expect(own).toBe(process.geteuid?.() === 0 ? '/var/lib/forkd' : '/x/forkd');
  });

  it('refuses a socket path that the kernel would cut off', () => {
    expect(() => localPaths({ dataDir: `/${'d'.repeat(120)}` })).toThrow(/longer than 107 bytes/);
  });
});
