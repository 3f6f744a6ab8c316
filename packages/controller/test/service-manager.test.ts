// Proves what a service manager is told, and by whom, over a real unix datagram socket, with the real systemd-notify.
import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { beforeEach, expect, test } from 'vitest';
import { ServiceManager } from '../src/process/service-manager.ts';
import { receiveDatagrams } from './datagrams.ts';
import { scratch, silent } from './support.ts';

/** On a busy machine too. */
const soon = { timeout: 20_000 };

beforeEach(async (context) => {
  for (const program of ['systemd-notify', 'python3']) {
    const missing = await promisify(execFile)(program, ['--version']).catch(() => program);
    context.skip(missing === program, `${program} is not installed`);
  }
});

const noMoreAfterStop = (texts: string[]) => texts.slice(texts.findIndex((text) => text.includes('STOPPING=1')) + 1);

test('ready, well, not well, well again, stopping: in our own name', async () => {
  const socket = join(await scratch(), 'notify');
  const received = await receiveDatagrams(socket);
  const env: NodeJS.ProcessEnv = { ...process.env, NOTIFY_SOCKET: socket, WATCHDOG_USEC: '200000' };
  const logged: string[] = [];
  const log = pino({}, { write: (line) => void logged.push(line) });
  const manager = ServiceManager.fromEnv(env, log);
  expect(Object.keys(env).filter((name) => /NOTIFY|WATCHDOG/.test(name))).toEqual([]);
  let well = true;
  let asked = 0;
  await manager?.ready(async () => {
    asked += 1;
    if (!well) throw new Error('the pager does not answer');
    return `asked ${asked} times`;
  });
  expect(received[0]?.text.split('\n')).toEqual(expect.arrayContaining(['READY=1', 'STATUS=asked 1 times']));
  await expect.poll(() => received.filter(({ text }) => text.includes('WATCHDOG=1')).length, soon).toBeGreaterThan(2);
  well = false;
  await expect.poll(() => logged.length, soon).toBeGreaterThan(2);
  const before = received.length;
  const askedBefore = asked;
  await expect.poll(() => asked, soon).toBeGreaterThan(askedBefore + 2);
  expect(received.length).toBe(before);
  well = true;
  await expect.poll(() => received.length, soon).toBeGreaterThan(before);
  await manager?.stopping('SIGTERM');
  await expect.poll(() => received.at(-1)?.text, soon).toContain('STOPPING=1');
  expect(noMoreAfterStop(received.map(({ text }) => text))).toEqual([]);
  // So that the unit needs to trust this process only. It takes a privilege; without it the program speaks for itself.
  if (process.geteuid?.() === 0) expect(new Set(received.map(({ pid }) => pid))).toEqual(new Set([process.pid]));
});

test('a health that never answers is no health', async () => {
  const socket = join(await scratch(), 'notify');
  const received = await receiveDatagrams(socket);
  const env = { ...process.env, NOTIFY_SOCKET: socket, WATCHDOG_USEC: '200000', WATCHDOG_PID: String(process.pid) };
  const manager = ServiceManager.fromEnv(env, silent);
  let hangs = false;
  const hang = (signal: AbortSignal) =>
    new Promise<string>((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  let given = 0;
  await manager?.ready(async (signal) => {
    if (!hangs) return 'well';
    given += 1;
    return hang(signal);
  });
  hangs = true;
  await expect.poll(() => given, soon).toBeGreaterThan(0);
  const before = received.length;
  await expect.poll(() => given, soon).toBeGreaterThan(3);
  expect(received.length).toBe(before);
  await manager?.stopping('idle');
});

test('nobody is told where nobody listens, and no watchdog is fed that is not ours', async () => {
  expect(ServiceManager.fromEnv({}, silent)).toBeNull();
  const dir = await scratch();
  const socket = join(dir, 'notify');
  const received = await receiveDatagrams(socket);
  const env = { ...process.env, NOTIFY_SOCKET: socket, WATCHDOG_USEC: '100000', WATCHDOG_PID: '1' };
  const manager = ServiceManager.fromEnv(env, silent);
  await manager?.ready(async () => 'well');
  await manager?.stopping('idle');
  await expect.poll(() => received.length, soon).toBe(2);
  expect(received.map(({ text }) => text).join()).not.toContain('WATCHDOG');
  expect(await readdir(dir)).toEqual(['notify']);
});

test('a manager that cannot be told costs a line in the log', async () => {
  const logged: string[] = [];
  const log = pino({}, { write: (line) => void logged.push(line) });
  const manager = ServiceManager.fromEnv({ ...process.env, NOTIFY_SOCKET: '/nowhere/notify' }, log);
  await manager?.ready(async () => 'well');
  const noProgram = ServiceManager.fromEnv({ NOTIFY_SOCKET: '/nowhere/notify', PATH: '/nowhere' }, log);
  await noProgram?.ready(async () => 'well');
  expect(logged.filter((line) => line.includes('could not tell the service manager'))).toHaveLength(2);
});
