// Proves who may call the port and who may not: a real server, and a real file of tokens that changes while it serves.
import { chmod, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { Tokens } from '../src/http/tokens.ts';
import { UsageError } from '../src/usage-error.ts';
import { expectError, HttpLab } from './http-support.ts';
import { scratch, silent } from './support.ts';

const FIRST = 'a-token-of-sixteen-bytes-or-more';
const SECOND = 'another-token-that-is-long-enough';

async function tokenFile(text: string, mode = 0o600): Promise<string> {
  const path = join(await scratch(), 'tokens');
  await writeFile(path, text, { mode });
  await chmod(path, mode);
  return path;
}

const bearer = (token: string) => ({ tcp: true, headers: { authorization: `Bearer ${token}` } });

test('the port wants a token on every route but one, the unix socket on none', async () => {
  const lab = await HttpLab.serve(
    {},
    silent,
    await Tokens.open(await tokenFile(`# ours\n${FIRST}\n\n${SECOND}\n`), silent),
  );
  expect((await lab.ask('GET', '/healthz', { tcp: true })).status).toBe(200);
  for (const [method, path] of [
    ['GET', '/version'],
    ['GET', '/v1/sandboxes'],
    ['POST', '/healthz'],
    ['GET', '/healthz?x'],
    ['GET', '/nowhere'],
    ['GET', '/docs'],
    ['GET', '/openapi.json'],
  ] as const) {
    const reply = await lab.ask(method, path, { tcp: true });
    const { error, hint } = expectError(reply, 401, 'unauthorized');
    expect(error).toContain('no bearer token');
    expect(hint).toMatch(/authorization: Bearer TOKEN.* FORKD_TOKEN.* --unix-socket/);
    expect(reply.headers['www-authenticate']).toBe('Bearer');
  }
  for (const wrong of ['', FIRST.slice(0, -1), `${FIRST}x`, `${FIRST} ${SECOND}`, FIRST.toUpperCase()]) {
    expectError(await lab.ask('GET', '/version', bearer(wrong)), 401, 'unauthorized');
  }
  for (const right of [FIRST, SECOND]) {
    const reply = await lab.ask('GET', '/version', bearer(right));
    expect([reply.status, reply.headers['www-authenticate']]).toEqual([200, undefined]);
  }
  expect((await lab.ask('GET', '/version')).status).toBe(200);
  expect(lab.calls).toEqual([]);
});

test('without a file a bearer token is tolerated', async () => {
  const lab = await HttpLab.serve();
  expect((await lab.ask('GET', '/version', bearer(FIRST))).status).toBe(200);
});

test('the file is read again when it changes; one that is wrong then leaves the tokens as they were', async () => {
  const path = await tokenFile(FIRST);
  const lines: string[] = [];
  const log = pino({}, { write: (line: string) => void lines.push(line) });
  const lab = await HttpLab.serve({}, silent, await Tokens.open(path, log));
  const statusOf = async (token: string) => (await lab.ask('GET', '/version', bearer(token))).status;
  expect([await statusOf(FIRST), await statusOf(SECOND)]).toEqual([200, 401]);
  await writeFile(path, SECOND);
  expect([await statusOf(FIRST), await statusOf(SECOND)]).toEqual([401, 200]);
  await writeFile(path, 'short');
  expect([await statusOf(SECOND), await statusOf('short')]).toEqual([200, 401]);
  await rm(path);
  expect(await statusOf(SECOND)).toBe(200);
  expect(lines.filter((line) => line.includes('the earlier tokens stay'))).toHaveLength(2);
  expect(lines.join('')).not.toContain(SECOND);
});

test.each([
  ['', 'has no token'],
  ['# only a comment\n', 'has no token'],
  ['fifteen-bytes-x', 'less than 16 bytes'],
  [`${FIRST}\nshort\n`, 'less than 16 bytes'],
  ['REPLACE_ME_WITH_A_TOKEN', 'placeholder'],
  ['change-me-to-a-real-token', 'placeholder'],
  ['two words in one long token', 'a space in it'],
  ['x'.repeat(70_000), 'has 70000 bytes'],
])('a file with %j is refused at the start', async (text, why) => {
  const opening = Tokens.open(await tokenFile(text), silent);
  await expect(opening).rejects.toThrow(UsageError);
  await expect(opening).rejects.toThrow(why);
});

test('so is one that is missing, or that others can write', async () => {
  await expect(Tokens.open('/nowhere/tokens', silent)).rejects.toThrow('cannot be read');
  for (const mode of [0o620, 0o602]) {
    await expect(Tokens.open(await tokenFile(FIRST, mode), silent)).rejects.toThrow('chmod 600');
  }
});

test('a file that others can read is taken with a warning', async () => {
  for (const [mode, warnings] of [
    [0o644, 1],
    [0o600, 0],
  ] as const) {
    const lines: string[] = [];
    const log = pino({}, { write: (line: string) => void lines.push(line) });
    const lab = await HttpLab.serve({}, silent, await Tokens.open(await tokenFile(FIRST, mode), log));
    expect((await lab.ask('GET', '/version', bearer(FIRST))).status).toBe(200);
    expect(lines.filter((line) => line.includes('chmod 600'))).toHaveLength(warnings);
  }
});
