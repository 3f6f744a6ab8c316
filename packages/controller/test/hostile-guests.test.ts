/** Proves, over the real API, that a guest whose agent means harm costs its own callers an error, and nobody else anything. */
import { execFile } from 'node:child_process';
import { lstat, readdir } from 'node:fs/promises';
import { type IncomingMessage, request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { errorRegistry, isErrorCode } from '@forkd/api';
import { HostileAgent, lies } from '@forkd/testing';
import { expect, onTestFinished, test } from 'vitest';
import { limits } from '../src/limits.ts';
import { Metrics } from '../src/observe/metrics.ts';
import { followOutput, getCommand, listCommands, startAndFollow, startCommand } from '../src/operations/commands.ts';
import { evaluate, exec, ping } from '../src/operations/exec.ts';
import { listDir, readFile, watchFiles } from '../src/operations/files.ts';
import { BytePool, type PoolBounds } from '../src/state/byte-pool.ts';
import { GuestLink } from '../src/state/guest-link.ts';
import type { Sandbox } from '../src/state/sandbox.ts';
import { type Answers, HttpLab } from './http-support.ts';
import { scratch } from './support.ts';

const MIB = 1024 * 1024;
const BASE = '/v1/sandboxes/sb-1';

/** The API over one guest whose agent tells this lie. */
async function serve(lie: string, output: PoolBounds = limits.output): Promise<HttpLab> {
  const hostile = await HostileAgent.start(lie);
  onTestFinished(() => hostile[Symbol.asyncDispose]());
  const link = new GuestLink('sb-1');
  onTestFinished(() => link.close());
  link.retarget(hostile.socket, null);
  const sandbox = { id: 'sb-1', guest: link, ended: new AbortController(), execCount: 0 } as unknown as Sandbox;
  const host = { registry: { running: () => sandbox }, metrics: new Metrics(), output: new BytePool(output) };
  const operations = [
    ping,
    exec,
    evaluate,
    startCommand,
    startAndFollow,
    listCommands,
    getCommand,
    followOutput,
    readFile,
    listDir,
    watchFiles,
  ];
  const answers: Answers = Object.fromEntries(
    operations.map((operation) => [
      operation.name,
      (operation as (...args: unknown[]) => unknown).bind(undefined, host),
    ]),
  );
  return HttpLab.serve({ ...answers, listSandboxes: () => [{ id: 'sb-1' }] });
}

const routes: [string, string, string?][] = [
  ['POST', `${BASE}/ping`],
  ['POST', `${BASE}/exec`, '{"args":["x"],"timeout_secs":1}'],
  ['POST', `${BASE}/eval`, '{"code":"1","timeout_secs":1}'],
  ['POST', `${BASE}/commands`, '{"args":["x"]}'],
  ['GET', `${BASE}/commands`],
  ['GET', `${BASE}/commands/c-1`],
  ['GET', `${BASE}/commands/c-1/output`],
  ['GET', `${BASE}/files?path=/x`],
  ['GET', `${BASE}/dir?path=/`],
];

/** Without end by their nature: their caller decides how long, which the tests of the client do. */
const endless = new Set([
  'silent',
  'silent body',
  'endless file',
  'endless output',
  'endless gaps',
  'tiny output',
  'endless changes',
]);

test.each(Object.keys(lies).filter((name) => !endless.has(name)))(
  'an agent that tells "%s" cannot answer in the name of the controller',
  async (lie) => {
    const lab = await serve(lie);
    for (const [method, path, body] of routes) {
      const reply = await lab.ask(method, path, body === undefined ? {} : { body }).catch((error: unknown) => {
        // A file that is broken off after its head has been passed on.
        expect([path, String(error)]).toEqual([
          `${BASE}/files?path=/x`,
          expect.stringMatching(/aborted|hang up|Parse/),
        ]);
        return undefined;
      });
      if (reply === undefined || reply.status < 300) continue;
      const { code, error } = JSON.parse(reply.text) as { code: string; error: string };
      expect(isErrorCode(code)).toBe(true);
      expect([lie, path, code]).not.toEqual([lie, path, expect.stringMatching(/^(internal|unauthorized)$/)]);
      expect(errorRegistry[code as keyof typeof errorRegistry].class).not.toBe('bug');
      // oxlint-disable-next-line no-control-regex -- They are what must not be there.
      expect(error).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202e]/);
      expect(reply.text.length).toBeLessThan(4096);
    }
  },
);

test('an agent that is too old for a call is told from one that fails', async () => {
  const lab = await serve('earlier agent');
  const { status, text } = await lab.ask('GET', `${BASE}/files/watch?path=/x`, {});
  expect([status, JSON.parse(text)]).toEqual([
    400,
    expect.objectContaining({
      code: 'unsupported',
      error: expect.stringContaining('not supported by the agent of its template'),
      hint: expect.stringContaining('Build the template again'),
    }),
  ]);
});

test('a watch that fails says so in its last event', async () => {
  const lab = await serve('false end');
  const { status, text } = await lab.ask('GET', `${BASE}/files/watch?path=/x`, {});
  const events = text.split('\n\n').filter((part) => part.startsWith('event: '));
  expect([status, events]).toEqual([
    200,
    ['event: ready\ndata: {"type":"ready"}', expect.stringMatching(/^event: error\ndata: \{.*"code":"guest_failed"/)],
  ]);
  // oxlint-disable-next-line no-control-regex -- It is what must not be there.
  expect(text).not.toMatch(/\u001b/);
});

/** Asks, counts the bytes of the reply and drops them. */
function count(lab: HttpLab, path: string, body: string): Promise<{ status: number; bytes: number; end: string }> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json' };
    const request = httpRequest({ socketPath: lab.socket, method: 'POST', path, headers }, (response) => {
      let bytes = 0;
      let end = '';
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        end = (end + chunk.subarray(-500).toString()).slice(-500);
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, bytes, end }));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

test('many replies of exec at once stay within the budget, and say what they do not carry', async () => {
  const lab = await serve('large output', { ...limits.output, bytesMax: 32 * MIB, waitMs: 120_000 });
  const before = process.memoryUsage.rss();
  let peak = 0;
  const look = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss())), 20);
  onTestFinished(() => clearInterval(look));
  const body = '{"args":["x"],"timeout_secs":300}';
  const replies = await Promise.all(Array.from({ length: 12 }, () => count(lab, `${BASE}/exec`, body)));
  for (const { status, bytes, end } of replies) {
    expect([status, bytes > 16 * MIB]).toEqual([200, true]);
    expect(end).toMatch(
      /"exit_code":0,"truncated":true,"stdout_dropped_bytes":12582912,"stderr_dropped_bytes":12582912}$/,
    );
  }
  // All of them at once are 192 MiB, of which each is there several times where a reply is made in one go.
  expect(peak - before).toBeLessThan(400 * MIB);
});

test('where others have the memory for output, exec says so and how to do without', async () => {
  const lab = await serve('large output', { bytesMax: 0, shareBytes: 1, freeBytes: 1, waitMs: 50 });
  const reply = await lab.ask('POST', `${BASE}/exec`, { body: '{"args":["x"]}' });
  expect(reply.status).toBe(503);
  expect(JSON.parse(reply.text)).toMatchObject({ code: 'output_budget', hint: expect.stringContaining('Stream') });
});

test('an evaluation says that its output was cut', async () => {
  const lab = await serve('large evaluation');
  const reply = await lab.ask('POST', `${BASE}/eval`, { body: '{"code":"1"}' });
  const { truncated, stdout, state_lost: stateLost } = JSON.parse(reply.text);
  expect([reply.status, truncated, stdout.length, stateLost]).toEqual([200, true, MIB, false]);
});

test.each([
  ['endless output', 'POST', `${BASE}/commands`, '{"args":["x"],"follow":true}'],
  ['endless file', 'GET', `${BASE}/files?path=/x`, undefined],
])('%s whose reader stands still is held up in the guest', async (lie, method, path, body) => {
  const lab = await serve(lie);
  const before = process.memoryUsage.rss();
  const headers = { 'content-type': 'application/json' };
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const request = httpRequest(
      { socketPath: lab.socket, method, path, ...(body !== undefined && { headers }) },
      resolve,
    );
    request.on('error', reject);
    request.end(body);
  });
  onTestFinished(() => void response.destroy());
  expect(response.statusCode).toBe(200);
  // Nothing more is read once all buffers are full: the processor has nothing left to do for it.
  await expect
    .poll(
      async () => {
        const from = process.cpuUsage();
        await delay(200);
        const { user, system } = process.cpuUsage(from);
        return (user + system) / 1000;
      },
      { timeout: 20_000 },
    )
    .toBeLessThan(50);
  expect(process.memoryUsage.rss() - before).toBeLessThan(100 * MIB);
});

test('forkd cp from a hostile guest makes files that are only files', async () => {
  const lab = await serve('terminal names');
  const target = await scratch();
  const cli = fileURLToPath(new URL('../../cli/bundle/forkd.js', import.meta.url));
  const env = { ...process.env, FORKD_URL: `unix:${lab.socket}`, NO_COLOR: '1' };
  await promisify(execFile)(process.execPath, [cli, 'cp', 'sb-1:/srv', join(target, 'copy')], { env });
  const names = await readdir(join(target, 'copy'));
  expect(names.toSorted()).toEqual(['a\u001b[2J\u001b]0;owned\u0007', 'suid']);
  for (const name of names) expect((await lstat(join(target, 'copy', name))).mode).toBe(0o100_755);
  expect(await readdir(target)).toEqual(['copy']);
});
