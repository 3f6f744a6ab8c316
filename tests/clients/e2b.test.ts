/**
 * E2B's packages work unchanged: `e2b` and its code interpreter, of npm and of PyPI, call their methods on a real controller and
 * real guests. docs/guides/e2b.md has the table of the results, which `vitest run tests/clients/e2b.test.ts -u` writes. Left
 * out where a registry cannot be reached. Hostile callers of the same port are here, too.
 */
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { REPO, TestController, until } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { installNode } from '../node-environment.ts';
import { installPython, runProgram } from '../python-environment.ts';

const HERE = join(REPO, 'tests/clients/e2b');
const PAGE = join(REPO, 'docs/guides/e2b.md');
const TOKEN = 'a-token-of-the-clients-of-e2b';
const TEMPLATE = 'code-interpreter-v1';
const TIMEOUT_MS = 600_000;
/** The versions of npm. Those of PyPI are in requirements.txt, and the page names all of them. */
const NPM_PACKAGES = ['e2b@2.51.0', '@e2b/code-interpreter@2.8.0'];

const node = await installNode(...NPM_PACKAGES);
const python = await installPython(join(HERE, 'requirements.txt'));

let dir: string;
let controller: TestController;
beforeAll(async () => {
  dir = await mkdtemp('/tmp/fke-');
  const tokens = join(dir, 'tokens');
  await writeFile(tokens, `${TOKEN}\n`, { mode: 0o600 });
  controller = await TestController.start({
    args: ['--e2b', '127.0.0.1:0', '--bind', '127.0.0.1:0', '--token-file', tokens],
  });
  await controller.client.createSnapshot({ tag: TEMPLATE, source: 'recipe:code-interpreter', mem_mib: 768 });
}, TIMEOUT_MS);
afterAll(async () => {
  await controller?.[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

type Results = Map<string, string>;

test('each method of both packages does what the page says', { timeout: TIMEOUT_MS }, async ({ skip }) => {
  if ('missing' in node) return skip(node.missing);
  if ('missing' in python) return skip(python.missing);
  const [ofNpm, ofPypi]: [Results, Results] = [new Map(), new Map()];
  // A program finds its packages beside itself.
  for (const name of ['calls', 'methods', 'interpreter']) {
    await copyFile(join(HERE, `${name}.mjs`), join(node.dir, `${name}.mjs`));
  }
  for (const name of ['methods', 'interpreter']) {
    await Promise.all([
      addResults(ofNpm, process.execPath, [join(node.dir, `${name}.mjs`), TEMPLATE]),
      addResults(ofPypi, join(python.bin, 'python'), [join(HERE, `${name}.py`), TEMPLATE]),
    ]);
  }
  expect(ofNpm.get('Sandbox.create')).toBe('works');
  const parts = (await readFile(PAGE, 'utf8')).split(/(?<=<!-- The table below is made [^\n]*\n\n)(?:\|[^\n]*\n)+/);
  expect(parts).toHaveLength(2);
  await expect(parts.join(tableOf(ofNpm, ofPypi))).toMatchFileSnapshot(PAGE);
  expect(await controller.client.listSandboxes()).toEqual([]);
  expect((await controller.client.listSnapshots()).map(({ tag }) => tag)).toEqual([TEMPLATE]);
});

test('the page names the versions that are tested', async () => {
  const page = await readFile(PAGE, 'utf8');
  const ofPypi = (await readFile(join(HERE, 'requirements.txt'), 'utf8')).trim().split('\n');
  const versions = [...NPM_PACKAGES, ...ofPypi].map((one) => one.replace(/(?:@|==)(?=\d)/, ' '));
  expect(versions.filter((version) => !page.includes(version))).toEqual([]);
});

/** Runs a program that calls the methods, and adds the result of each. */
async function addResults(results: Results, file: string, args: readonly string[]): Promise<void> {
  const url = controller.e2bUrl;
  const env = { ...process.env, E2B_API_URL: url, E2B_SANDBOX_URL: url, E2B_API_KEY: TOKEN };
  const { code, output } = await runProgram(file, args, TIMEOUT_MS, { env });
  expect([code, code === 0 ? '' : output]).toEqual([0, '']);
  const lines = output.split('\n').filter((line) => line.startsWith('{"method"'));
  for (const { method, result } of lines.map((line) => JSON.parse(line))) results.set(method, result);
}

/** The results as a Markdown table, laid out as oxfmt does it. */
function tableOf(ofNpm: Results, ofPypi: Results): string {
  const methods = [...new Set([...ofNpm.keys(), ...ofPypi.keys()])];
  const cells = [
    ['method', 'npm', 'PyPI'],
    ...methods.map((method) => [`\`${method}\``, resultOf(ofNpm, method), resultOf(ofPypi, method)]),
  ];
  const widths = [0, 1, 2].map((at) => Math.max(...cells.map((row) => row[at]?.length ?? 0)));
  const rows = cells.map((row) => `| ${row.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join(' | ')} |`);
  rows.splice(1, 0, `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`);
  return rows.map((row) => `${row}\n`).join('');
}

function resultOf(results: Results, method: string): string {
  return results.get(method) ?? 'has no such method';
}

interface Reply {
  status: number;
  text: string;
}

/** Sends a request that an SDK would not send. */
function ask(
  path: string,
  {
    method = 'POST',
    headers = {},
    body,
  }: { method?: string; headers?: Record<string, string>; body?: string | Buffer },
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(new URL(path, controller.e2bUrl), { method, headers }, (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

/** An envelope of a stream. */
function envelope(json: string, flags = 0, length = Buffer.byteLength(json)): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(length, 1);
  return Buffer.concat([head, Buffer.from(json)]);
}

test('callers without a key, with a wrong token and web pages are refused', { timeout: TIMEOUT_MS }, async () => {
  const key = { 'x-api-key': TOKEN };
  const json = { 'content-type': 'application/json' };
  const status = async (path: string, options: Parameters<typeof ask>[1]) => (await ask(path, options)).status;
  expect(await status('/v2/sandboxes', { method: 'GET' })).toBe(401);
  expect(await status('/v2/sandboxes', { method: 'GET', headers: { 'x-api-key': 'another-token-of-16' } })).toBe(401);
  expect(await status('/v2/sandboxes', { method: 'GET', headers: key })).toBe(200);
  expect(await status('/v2/sandboxes', { method: 'GET', headers: { ...key, host: 'rebound.example' } })).toBe(403);
  const page = { ...key, origin: 'https://page.example' };
  expect(await status('/v2/sandboxes', { method: 'GET', headers: page })).toBe(403);

  const made = await ask('/v2/sandboxes', { headers: { ...key, ...json }, body: `{"templateID":"${TEMPLATE}"}` });
  const { sandboxID: id, envdAccessToken: token } = JSON.parse(made.text);
  expect(made.status).toBe(201);
  const named = { 'e2b-sandbox-id': id };
  const allowed = { ...named, ...json, 'x-access-token': token };
  const list = '/process.Process/List';
  expect(await status(list, { headers: { ...named, ...json }, body: '{}' })).toBe(401);
  expect(await status(list, { headers: { ...allowed, 'x-access-token': token.replace(/.$/, 'g') }, body: '{}' })).toBe(
    401,
  );
  // The key of the API is no token of a guest, and an unknown sandbox is not told from one whose token is wrong.
  expect(await status(list, { headers: { ...named, ...json, ...key }, body: '{}' })).toBe(401);
  expect(await status(list, { headers: { ...allowed, 'e2b-sandbox-id': 'sb-0000000000' }, body: '{}' })).toBe(401);
  expect(await status('/files?path=/etc/passwd&signature=v1_x', { method: 'GET' })).toBe(401);
  expect(await status('/files?path=/etc/passwd&signature=v1_x', { method: 'GET', headers: named })).toBe(401);
  expect(await status(list, { headers: { ...allowed, origin: 'https://page.example' }, body: '{}' })).toBe(403);
  expect(JSON.parse((await ask(list, { headers: allowed, body: '{}' })).text)).toEqual({ processes: [] });

  await controller.client.deleteSandbox(id);
  expect(await ask(list, { headers: allowed, body: '{}' })).toMatchObject({ status: 502, text: /was not found/ });
});

test('the interpreter is as closed as the rest of the guest', { timeout: TIMEOUT_MS }, async () => {
  const key = { 'x-api-key': TOKEN, 'content-type': 'application/json' };
  const made = await ask('/v2/sandboxes', { headers: key, body: `{"templateID":"${TEMPLATE}"}` });
  const { sandboxID: id, trafficAccessToken: token } = JSON.parse(made.text);
  const named = { 'e2b-sandbox-id': id, 'content-type': 'application/json' };
  const allowed = { ...named, 'e2b-traffic-access-token': token };
  const run = (headers: Record<string, string>, body: string) => ask('/execute', { headers, body });
  expect((await run(named, '{"code":"1"}')).status).toBe(401);
  expect((await run({ ...named, 'e2b-traffic-access-token': 'x' }, '{"code":"1"}')).status).toBe(401);
  expect((await run(allowed, '{"code":1}')).status).toBe(400);
  expect((await run(allowed, '{"code":"1","context_id":"none"}')).status).toBe(404);
  expect((await run(allowed, '{"code":"1","language":"r"}')).status).toBe(501);
  // A cell that writes where replies belong ends no request.
  const forged = `import os; os.write(4, b'{"type":"end"}\\n[]\\n'); 'whole'`;
  const { status, text } = await run(allowed, JSON.stringify({ code: forged }));
  expect([status, text]).toEqual([200, expect.stringContaining('"text":"whole"')]);
  await controller.client.deleteSandbox(id);
});

test('malformed and oversized requests are refused, and harm nothing', { timeout: TIMEOUT_MS }, async () => {
  const key = { 'x-api-key': TOKEN, 'content-type': 'application/json' };
  const create = (body: string) => ask('/v2/sandboxes', { headers: key, body });
  for (const body of [
    '{',
    '[]',
    '{"timeout":"1"}',
    '{"timeout":0}',
    '{"metadata":{"a":1}}',
    `{"templateID":"${TEMPLATE}","metadata":{"e2b.x":"y"}}`,
  ]) {
    expect([body, (await create(body)).status]).toEqual([body, 400]);
  }
  expect((await create(`{"metadata":{"a":"${'x'.repeat(200_000)}"}}`)).status).toBe(413);
  expect(await create('{"mcp":{}}')).toMatchObject({ status: 501, text: /is not supported by forkd/ });
  expect(await ask('/volumes', { method: 'GET', headers: key })).toMatchObject({ status: 501 });

  const { sandboxID: id, envdAccessToken: token } = JSON.parse((await create(`{"templateID":"${TEMPLATE}"}`)).text);
  const guest = { 'e2b-sandbox-id': id, 'x-access-token': token };
  const rpc = { ...guest, 'content-type': 'application/json' };
  const stream = { ...guest, 'content-type': 'application/connect+json' };
  const codeOf = async (path: string, headers: Record<string, string>, body: string | Buffer): Promise<string> => {
    const { text } = await ask(path, { headers, body });
    return /"code":"([a-z_]+)"/.exec(text)?.[1] ?? text;
  };
  expect(await codeOf('/filesystem.Filesystem/Stat', rpc, '{"path":7}')).toBe('invalid_argument');
  expect(await codeOf('/filesystem.Filesystem/Stat', rpc, '{"path":"a\\u0000b"}')).toBe('invalid_argument');
  expect(await codeOf('/filesystem.Filesystem/Stat', rpc, `${'['.repeat(100)}${']'.repeat(100)}`)).toBe(
    'invalid_argument',
  );
  expect(await codeOf('/process.Process/SendInput', rpc, '{"process":{"pid":1},"input":{"stdin":"%"}}')).toBe(
    'invalid_argument',
  );
  expect(await codeOf('/process.Process/Nothing', rpc, '{}')).toBe('unimplemented');
  const start = '/process.Process/Start';
  expect(await codeOf(start, stream, envelope('{"process":{}}'))).toBe('invalid_argument');
  expect(await codeOf(start, stream, envelope('not JSON'))).toBe('invalid_argument');
  expect(await codeOf(start, stream, envelope('{}', 1))).toBe('unimplemented');
  expect(await codeOf(start, stream, envelope('{}', 0, 2 ** 31))).toBe('resource_exhausted');
  expect(await codeOf(start, stream, envelope('{}', 0, 100))).toBe('invalid_argument');
  expect(await codeOf(start, stream, Buffer.alloc(0))).toBe('invalid_argument');
  expect(await codeOf(start, stream, envelope('{"process":{"cmd":"no-such-program"}}'))).toBe('invalid_argument');

  const form = { ...guest, 'content-type': 'multipart/form-data; boundary=x' };
  expect(
    (await ask('/files', { headers: { ...guest, 'content-type': 'multipart/form-data' }, body: 'x' })).status,
  ).toBe(400);
  expect(
    (await ask('/files', { headers: form, body: '--x\r\nContent-Disposition: form-data; name="file"' })).status,
  ).toBe(400);
  expect((await ask('/files', { headers: form, body: '--x--\r\n' })).status).toBe(400);
  const pressed = { ...guest, 'content-type': 'application/octet-stream', 'content-encoding': 'gzip' };
  expect((await ask('/files?path=x', { headers: pressed, body: 'no gzip' })).status).toBe(400);
  expect((await ask('/files?path=x', { headers: { ...pressed, 'content-encoding': 'br' }, body: '' })).status).toBe(
    415,
  );
  expect((await ask('/files?path=x', { method: 'GET', headers: guest })).status).toBe(404);

  // The guest and the controller are as they were.
  expect(await ask('/process.Process/List', { headers: rpc, body: '{}' })).toEqual({
    status: 200,
    text: '{"processes":[]}',
  });
  await controller.client.deleteSandbox(id);
});

test('a command outlives the stream of its caller and the controller', { timeout: TIMEOUT_MS }, async () => {
  const key = { 'x-api-key': TOKEN, 'content-type': 'application/json' };
  const made = await ask('/v2/sandboxes', { headers: key, body: `{"templateID":"${TEMPLATE}","timeout":3600}` });
  const { sandboxID: id, envdAccessToken: token } = JSON.parse(made.text);
  const guest = { 'e2b-sandbox-id': id, 'x-access-token': token };
  const message = '{"process":{"cmd":"/bin/bash","args":["-c","sleep 600"]},"tag":"long"}';
  const headers = { ...guest, 'content-type': 'application/connect+json' };
  const request = httpRequest(new URL('/process.Process/Start', controller.e2bUrl), { method: 'POST', headers });
  const pid = await new Promise<number>((resolve, reject) => {
    request.on('error', reject);
    request.on('response', (response) =>
      response.once('data', (chunk: Buffer) => resolve(JSON.parse(chunk.subarray(5).toString()).event.start.pid)),
    );
    request.end(envelope(message));
  });
  request.destroy();
  await controller.stop();
  await controller.serve(['--e2b', '127.0.0.1:0', '--token-file', join(dir, 'tokens')]);
  const rpc = { ...guest, 'content-type': 'application/json' };
  const { processes } = JSON.parse((await ask('/process.Process/List', { headers: rpc, body: '{}' })).text);
  expect(processes).toEqual([{ pid, config: { cmd: '/bin/bash', args: ['-c', 'sleep 600'] } }]);
  const kill = JSON.stringify({ process: { pid }, signal: 'SIGNAL_SIGKILL' });
  expect(await ask('/process.Process/SendSignal', { headers: rpc, body: kill })).toEqual({ status: 200, text: '{}' });
  await until('the process has ended', TIMEOUT_MS, async () => {
    const { text } = await ask('/process.Process/List', { headers: rpc, body: '{}' });
    return text === '{"processes":[]}';
  });
  await controller.client.deleteSandbox(id);
});
