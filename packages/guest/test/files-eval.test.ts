/** Proves, against the real agent: files of any size and content, their errors; evaluation that keeps its state, and loses it only saying so. */
import { randomBytes } from 'node:crypto';
import { symlinkSync } from 'node:fs';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { GuestAgent } from '../src/index.ts';
import { allOf, startAgent, type Harness } from './harness.ts';

let harness: Harness;
let agent: GuestAgent;

beforeAll(async () => {
  harness = await startAgent();
  agent = await GuestAgent.connect(harness.socketPath, { timeoutMs: 10_000 });
});

afterAll(async () => {
  await agent?.close();
  await harness?.stop();
});

function at(name: string): string {
  return `${harness.folder}/files/${name}`;
}

test('a file of many MiB, its mode, in a folder that was not there', async () => {
  const data = randomBytes(24 * 1024 * 1024 + 1);
  await agent.writeFile(at('deep/er/big file+&?.bin'), data, { mode: 0o750 });
  const file = await agent.readFile(at('deep/er/big file+&?.bin'));
  expect([file.sizeBytes, file.mode]).toEqual([data.length, 0o750]);
  expect(Buffer.compare(await allOf(file.data), data)).toBe(0);
});

test('an empty file, a file of /proc, a link', async () => {
  await agent.writeFile(at('empty'), new Uint8Array());
  expect(await allOf((await agent.readFile(at('empty'))).data)).toHaveLength(0);
  expect(String(await allOf((await agent.readFile('/proc/self/status')).data))).toContain('forkd-agent');
  symlinkSync('empty', at('link'));
  await agent.writeFile(at('link'), Buffer.from('through'));
  expect(String(await allOf((await agent.readFile(at('empty'))).data))).toBe('through');
});

test('a read that is left early does not hold the others up', async () => {
  await agent.writeFile(at('left'), new Uint8Array(8 * 1024 * 1024));
  for await (const chunk of (await agent.readFile(at('left'))).data) if (chunk.length > 0) break;
  expect((await agent.ping()).pid).toBeGreaterThan(0);
});

test('folders are listed in order, and removed', async () => {
  await agent.writeFile(at('dir/b'), Buffer.from('12345'), { mode: 0o600 });
  await agent.writeFile(at('dir/a/x'), Buffer.from(''));
  const entries = await agent.listDir(at('dir'));
  expect(entries.map(({ name, type }) => [name, type])).toEqual([
    ['a', 'dir'],
    ['b', 'file'],
  ]);
  expect(entries[1]).toMatchObject({ sizeBytes: 5, mode: 0o600 });
  await expect(agent.remove(at('dir'))).rejects.toMatchObject({ code: 'directory_not_empty' });
  expect(await agent.remove(at('dir'), { recursive: true })).toBe(true);
  expect(await agent.remove(at('dir'))).toBe(false);
});

test('errors say what is wrong', async () => {
  await expect(agent.readFile(at('none'))).rejects.toMatchObject({ code: 'not_found', status: 404 });
  await expect(agent.readFile(harness.folder)).rejects.toMatchObject({ code: 'is_a_directory', status: 400 });
  await expect(agent.readFile('/dev/null')).rejects.toMatchObject({ code: 'not_a_file', status: 400 });
  await expect(agent.writeFile(harness.folder, Buffer.from('x'))).rejects.toMatchObject({ code: 'is_a_directory' });
  await expect(agent.listDir(at('none'))).rejects.toMatchObject({ code: 'not_found' });
  await expect(agent.remove('/', { recursive: true })).rejects.toMatchObject({ code: 'bad_path' });
});

test('an evaluation gives the last expression, and keeps its state', async () => {
  expect(await agent.eval('import math\nx = 20\nprint("hello")\nx * 2')).toMatchObject({
    result: '40',
    stdout: 'hello\n',
    exitCode: 0,
  });
  expect((await agent.eval('x + 1')).result).toBe('21');
  expect((await agent.eval('y = 1')).result).toBeUndefined();
  expect((await agent.eval('None')).result).toBe('None');
  expect((await agent.eval('import os; os.system("echo child")')).stdout).toBe('child\n');
});

test('an error is a traceback, with the line it came from', async () => {
  const { error, exitCode, result } = await agent.eval('def f():\n  return 1 / 0\nf()');
  expect([exitCode, result]).toEqual([1, undefined]);
  expect(error).toContain('ZeroDivisionError');
  expect(error).toContain('return 1 / 0');
  expect((await agent.eval('x =')).error).toContain('SyntaxError');
  expect(await agent.eval('import sys; sys.exit(3)')).toMatchObject({ exitCode: 3, stateLost: false });
  expect((await agent.eval('x')).result).toBe('20');
});

test('a timeout interrupts, and keeps the state', async () => {
  const late = await agent.eval('print("so far")\nwhile True: pass', { evalTimeoutMs: 300 });
  expect(late).toMatchObject({ timedOut: true, stateLost: false, exitCode: 1, stdout: 'so far\n' });
  expect(late.error).toContain('timed out after 300 ms');
  expect((await agent.eval('x')).result).toBe('20');
});

test('what does not heed the interrupt is ended; the next evaluation is in a fresh interpreter', async () => {
  const code = 'import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)';
  expect(await agent.eval(code, { evalTimeoutMs: 200 })).toMatchObject({ timedOut: true, stateLost: true });
  expect((await agent.eval('x')).error).toContain('NameError');
});

test('an interpreter is stopped, idle or in the middle of an evaluation', async () => {
  await agent.eval('z = 1');
  await agent.stopInterpreter();
  expect((await agent.eval('z')).error).toContain('NameError');
  const endless = agent.eval('print("in it")\nwhile True: pass');
  await new Promise((resolve) => setTimeout(resolve, 300));
  await agent.stopInterpreter();
  expect(await endless).toMatchObject({ stateLost: true, timedOut: false, stdout: 'in it\n' });
  expect((await agent.eval('2 + 2')).result).toBe('4');
});

test('a crash says so, and keeps what was printed', async () => {
  const crash = await agent.eval('print("last words"); import os; os.kill(os.getpid(), 11)');
  expect(crash).toMatchObject({ stateLost: true, exitCode: 1, stdout: 'last words\n' });
  expect(crash.error).toContain('signal 11');
  expect((await agent.eval('1 + 1')).result).toBe('2');
});

test('output over the limit is cut, not waited for', async () => {
  const { truncated, stdout, result } = await agent.eval('print("x" * (3 << 20))\n"end"');
  expect([truncated, stdout.length, result]).toEqual([true, 1 << 20, "'end'"]);
});

test('an identity reseeds the interpreter, also one that is busy; a retry is no new generation', async () => {
  const identity = { wallClockUnixNs: 1n, hostname: 'child', entropy: randomBytes(32), machineId: 'ab'.repeat(16) };
  await agent.eval('import random, time; random.seed(1)');
  const numbers = agent.eval('random.seed(1)\ntime.sleep(1)\nrandom.random()');
  await new Promise((resolve) => setTimeout(resolve, 300));
  const { generation, reseeded } = await agent.identify(identity);
  expect([generation, reseeded]).toEqual([1, ['python']]);
  expect(await agent.identify(identity)).toMatchObject({ generation: 1 });
  expect((await numbers).result).not.toBe('0.13436424411240122');
  expect(await agent.identity()).toEqual({ generation: 1, hostname: 'child', machineId: 'ab'.repeat(16) });
});

test('a language that is not there', async () => {
  await expect(agent.eval('1', { language: 'cobol' })).rejects.toMatchObject({ code: 'unknown_language' });
});
