// Proves that each request leaves one line, whatever became of it, that the file follows log rotation, and that a disk that
// is full (/dev/full, which answers as one) costs lines and nothing else.
import { constants } from 'node:fs';
import { open, readFile, rename, stat, symlink } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { limits } from '../src/limits.ts';
import { type AuditEntry, AuditLog } from '../src/observe/audit.ts';
import { HttpLab } from './http-support.ts';
import { scratch, silent } from './support.ts';

/** On a busy machine too. */
const soon = { timeout: 20_000 };

const entry: AuditEntry = {
  time: new Date(0).toISOString(),
  method: 'GET',
  path: '/',
  status: 200,
  latency_ms: 1,
  agent: null,
  remote: 'unix',
  token_id: null,
  request_id: 'r',
};

const linesOf = async (path: string): Promise<AuditEntry[]> =>
  (await readFile(path, 'utf8'))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as AuditEntry);

function recorder() {
  const logged: { level: number; msg: string }[] = [];
  return { logged, log: pino({}, { write: (line) => void logged.push(JSON.parse(line)) }) };
}

test('one line a request, on both listeners, without queries', async () => {
  const path = join(await scratch(), 'audit.log');
  const audit = await AuditLog.open(path, silent);
  const never = (_id: string, signal: AbortSignal) =>
    new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  const lab = await HttpLab.serve({ ping: never }, silent, null, { audit });
  const headers = { 'user-agent': 'u'.repeat(400), 'x-request-id': 'mine-1' };
  const replies = [
    await lab.ask('GET', '/healthz?secret=s3cret', { tcp: true, headers }),
    await lab.ask('GET', '/nowhere'),
    await lab.ask('GET', '/%zz?s3cret', { headers: { 'x-request-id': 'not sane' } }),
    await lab.ask('POST', '/v1/sandboxes', { body: '{"snapshot_tag":"s3cret s3cret"}' }),
    await lab.ask('PATCH', '/v1/sandboxes', { headers: { 'x-request-id': 'x'.repeat(129) } }),
  ];
  const leaver = httpRequest({ socketPath: lab.socket, path: '/v1/sandboxes/sb-1/ping', method: 'POST' });
  leaver.on('error', () => undefined).end();
  await expect.poll(() => lab.calls.length, soon).toBe(1);
  leaver.destroy();
  await expect.poll(async () => (await linesOf(path)).length, soon).toBe(6);
  const lines = await linesOf(path);
  const fields = lines.map(({ method, path: asked, status, remote }) => [method, asked, status, remote]);
  expect(fields).toEqual([
    ['GET', '/healthz', 200, '127.0.0.1'],
    ['GET', '/nowhere', 404, 'unix'],
    ['GET', '/%zz', 400, 'unix'],
    ['POST', '/v1/sandboxes', 400, 'unix'],
    ['PATCH', '/v1/sandboxes', 405, 'unix'],
    ['POST', '/v1/sandboxes/sb-1/ping', 499, 'unix'],
  ]);
  expect(await readFile(path, 'utf8')).not.toContain('s3cret');
  expect(lines[0]).toMatchObject({
    agent: 'u'.repeat(limits.auditAgentCharsMax),
    token_id: null,
    request_id: 'mine-1',
  });
  // The id is in the header, in the line, and in the body of an error.
  for (const [index, reply] of replies.entries()) {
    expect(reply.headers['x-request-id']).toBe(lines[index]?.request_id);
    if (reply.status >= 400) expect(JSON.parse(reply.text).request_id).toBe(lines[index]?.request_id);
  }
  expect(new Set(lines.map((line) => line.request_id)).size).toBe(6);
  expect(lines.every((line) => Math.abs(Date.parse(line.time) - Date.now()) < 60_000 && line.latency_ms >= 0)).toBe(
    true,
  );
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  await audit.close();
});

test('lines are added to those that are there, and go on in a new file after a rotation', async () => {
  const dir = await scratch();
  const path = join(dir, 'audit.log');
  const first = await AuditLog.open(path, silent);
  first.write(entry);
  await first.close();
  const second = await AuditLog.open(path, silent);
  for (let n = 0; n < 1000; n += 1) second.write(entry);
  await rename(path, `${path}.1`);
  await second.reopen();
  second.write({ ...entry, path: '/later' });
  await second.close();
  expect(await linesOf(`${path}.1`)).toHaveLength(1001);
  expect((await linesOf(path)).map((line) => line.path)).toEqual(['/later']);
  expect(second.droppedLines).toBe(0);
});

test('a full disk fails no request, is said once, and what is lost is counted', async () => {
  const { logged, log } = recorder();
  const audit = await AuditLog.open('/dev/full', log);
  const lab = await HttpLab.serve({}, silent, null, { audit });
  for (let n = 0; n < 5; n += 1) expect((await lab.ask('GET', '/healthz')).status).toBe(200);
  await expect.poll(() => audit.droppedLines, soon).toBe(5);
  expect(logged.map(({ msg }) => msg)).toEqual(['the audit log cannot be written: lines are lost, requests go on']);
  await audit.close();
});

test('who writes faster than the disk takes loses lines, not memory', async () => {
  const dir = await scratch();
  const path = join(dir, 'audit.log');
  const audit = await AuditLog.open(path, silent);
  const agent = 'a'.repeat(limits.auditAgentCharsMax);
  const count = Math.ceil((limits.auditQueueBytesMax / agent.length) * 2);
  for (let n = 0; n < count; n += 1) audit.write({ ...entry, agent });
  expect(audit.droppedLines).toBeGreaterThan(0);
  await audit.close();
  expect((await linesOf(path)).length + audit.droppedLines).toBe(count);
});

test('a file that cannot be appended to is refused at the start', async () => {
  const dir = await scratch();
  await symlink('/etc/passwd', join(dir, 'link'));
  for (const path of ['/nowhere/audit.log', dir, join(dir, 'link')]) {
    await expect(AuditLog.open(path, silent)).rejects.toThrow(`--audit-log '${path}' cannot be written`);
  }
});

test('a rotation that fails leaves the old file in use', async () => {
  const dir = await scratch();
  const path = join(dir, 'audit.log');
  const { logged, log } = recorder();
  const audit = await AuditLog.open(path, log);
  await rename(path, `${path}.1`);
  await symlink('/etc/passwd', path);
  await audit.reopen();
  audit.write(entry);
  await audit.close();
  expect(await linesOf(`${path}.1`)).toHaveLength(1);
  expect(logged[0]?.msg).toContain('the old file goes on');
});

test('two that write to one file do not write over each other', async () => {
  const path = join(await scratch(), 'audit.log');
  const audit = await AuditLog.open(path, silent);
  const other = await open(path, constants.O_WRONLY | constants.O_APPEND);
  onTestFinished(() => other.close());
  audit.write(entry);
  await expect.poll(async () => (await linesOf(path)).length, soon).toBe(1);
  await other.write(`${JSON.stringify(entry)}\n`);
  audit.write(entry);
  await audit.close();
  expect(await linesOf(path)).toHaveLength(3);
});
