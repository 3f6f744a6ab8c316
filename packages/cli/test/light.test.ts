// The reasons why a short command is light, held by its causes and not by a clock: the files that a command loads, and the requests that
// it sends to a real HTTP server on the socket of its data directory.
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

const FORKD = fileURLToPath(new URL('../bundle/forkd.js', import.meta.url));
const CONTROLLER = fileURLToPath(new URL('../../controller/bundle/forkd-controller.js', import.meta.url));
const ID = 'sb-00000000aa';
/** Prints every module that was loaded, as `import` names it, one per line, to the file LOADED. */
const HOOKS = `
import { appendFileSync } from 'node:fs';
export async function load(url, context, next) {
  appendFileSync(process.env.LOADED, url + '\\n');
  return next(url, context);
}`;

let dataDir: string;
let server: http.Server;
let asked: string[] = [];

beforeAll(async () => {
  dataDir = await mkdtemp(join(os.tmpdir(), 'forkd-light-'));
  await mkdir(join(dataDir, 'run'));
  await writeFile(join(dataDir, 'hooks.mjs'), HOOKS);
  const register = `import { register } from 'node:module'; register('file://${dataDir}/hooks.mjs');`;
  await writeFile(join(dataDir, 'register.mjs'), register);
  server = http.createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    if (request.method === 'GET') response.end('[]');
    else if (request.method === 'DELETE') response.writeHead(204).end();
    else {
      const events = [
        { type: 'started', id: 'c-1', pid: 1 },
        { type: 'exit', exit_code: 0, signal: null, timed_out: false },
      ];
      response.writeHead(201, { 'content-type': 'application/x-ndjson' });
      response.end(events.map((event) => `${JSON.stringify(event)}\n`).join(''));
    }
  });
  await new Promise<void>((resolve) => server.listen(join(dataDir, 'run/controller.sock'), resolve));
});

afterAll(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(dataDir, { recursive: true, force: true });
});

beforeEach(() => {
  asked = [];
});

/** Runs a program to its end, and returns its exit code and what it has loaded. */
async function run(program: string, args: readonly string[]): Promise<{ code: number | null; loaded: string[] }> {
  const list = join(dataDir, 'loaded');
  await writeFile(list, '');
  const env = { ...process.env, LOADED: list, FORKD_URL: '', FORKD_SOCKET: '', FORKD_DATA_DIR: dataDir };
  const flags = ['--import', join(dataDir, 'register.mjs')];
  const child = spawn(process.execPath, [...flags, program, ...args], { env, stdio: 'ignore' });
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  const urls = (await readFile(list, 'utf8')).split('\n');
  return { code, loaded: urls.filter((url) => url !== '' && !url.endsWith('/register.mjs')) };
}

/** Files of the bundle by their names, without the hashes. */
function files(loaded: readonly string[]): string[] {
  const ours = loaded.filter((url) => url.startsWith('file:'));
  return ours.map((url) => basename(url).replace(/(-[\w-]{8})?\.js$/, '')).toSorted();
}

test('`forkd ls` loads its own code and no other command, and is one request', async () => {
  const { code, loaded } = await run(FORKD, ['ls']);
  expect(code).toBe(0);
  expect(files(loaded)).toEqual(['forkd', 'ls', 'rolldown-runtime', 'shared']);
  expect(asked).toEqual(['GET /v1/sandboxes']);
});

test('`forkd exec` asks for nothing before it starts the command, and frees the output after its end', async () => {
  const { code, loaded } = await run(FORKD, ['exec', ID, '--', 'true']);
  expect(code).toBe(0);
  expect(files(loaded)).toEqual(['exec', 'forkd', 'rolldown-runtime', 'shared']);
  expect(asked).toEqual([`POST /v1/sandboxes/${ID}/commands`, `DELETE /v1/sandboxes/${ID}/commands/c-1`]);
});

test('global options before the command are no reason to load another one', async () => {
  const { code, loaded } = await run(FORKD, ['--data-dir', dataDir, '-q', 'ls']);
  expect(code).toBe(0);
  expect(files(loaded)).toEqual(['forkd', 'ls', 'rolldown-runtime', 'shared']);
});

test('what every command loads has neither an HTTP library nor schemas in it', async () => {
  const { loaded } = await run(FORKD, ['ls']);
  const texts = await Promise.all(
    loaded.filter((url) => url.startsWith('file:')).map((url) => readFile(fileURLToPath(url), 'utf8')),
  );
  const modules = texts.join('\n').match(/^\/\/ (?:node_modules|packages)\/\S+/gm) ?? [];
  expect(modules.length).toBeGreaterThan(10);
  expect(modules.filter((name) => /undici|typebox|packages\/(engine|store|images|controller)\//.test(name))).toEqual(
    [],
  );
});

test('`forkd-controller --version` loads no part of the daemon', async () => {
  const { code, loaded } = await run(CONTROLLER, ['--version']);
  expect(code).toBe(0);
  expect(files(loaded)).toEqual(['forkd-controller', 'version']);
});
