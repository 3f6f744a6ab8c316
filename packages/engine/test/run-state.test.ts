/**
 * The reasons for which a VM is ended, beside its own end: a run state that it never leaves, told by monitors that are honest, hostile or silent; and a
 * kill, which is over in bounded time even if the process is not.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, type Mock, test, vi } from 'vitest';
import { readStartTicks } from '../src/process.ts';
import { waitUntilRunning } from '../src/qemu/monitor.ts';
import { type OnStall, RunStateWatch } from '../src/qemu/run-state.ts';
import { endProcess } from '../src/supervise.ts';
import type { VmFault } from '../src/types.ts';

let dir: string;
let path: string;
let server: Server;
/** The lines that the watch has written. */
let asked: string[];
let onLost: Mock<(why: VmFault) => void>;

beforeEach(async () => {
  dir = await mkdtemp('/tmp/fk-state-');
  path = join(dir, 'monitor.sock');
  server = createServer();
  await once(server.listen(path), 'listening');
  asked = [];
  onLost = vi.fn<(why: VmFault) => void>();
});

afterEach(async () => {
  server.close();
  await rm(dir, { recursive: true, force: true });
});

/** The monitor's end of the connection of a new watch. */
async function connected(onStall?: OnStall): Promise<{ monitor: Socket; watch: RunStateWatch }> {
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const watch = new RunStateWatch(path, onLost, onStall);
  const [monitor] = await accepted;
  monitor.on('error', () => undefined).on('data', (text) => asked.push(...String(text).trim().split('\n')));
  await vi.waitFor(() => expect(asked).toHaveLength(2));
  return { monitor, watch };
}

const status = (name: string) => `{"return":{"status":"${name}"}}\n`;

test.each([
  ['internal-error', 'processor'],
  ['guest-panicked', 'panic'],
  ['io-error', 'disk'],
])('a VM in the state %s counts as lost, with the fault %s', async (state, kind) => {
  const { monitor } = await connected();
  monitor.write('{"QMP":{}}\n{"return":{}}\n');
  monitor.write(status('running'));
  monitor.write('{"event":"STOP"}\n');
  // The event alone does not say why it has stopped.
  await vi.waitFor(() => expect(asked).toHaveLength(3));
  expect(onLost).not.toHaveBeenCalled();
  monitor.write(status(state));
  const text: unknown = expect.stringContaining(`(${state})`);
  await vi.waitFor(() => expect(onLost).toHaveBeenCalledExactlyOnceWith({ kind, text }));
  if (!monitor.closed) await once(monitor, 'close');
});

test('a VM that its disk has stopped is told to run until it does, but not while it is held', async () => {
  const onStall = vi.fn<OnStall>();
  const { monitor, watch } = await connected(onStall);
  const stop = `{"event":"BLOCK_IO_ERROR","data":{"action":"stop","nospace":true}}\n{"event":"STOP"}\n`;
  const conts = () => asked.filter((line) => line.includes('cont')).length;
  monitor.write(stop + status('io-error'));
  await vi.waitFor(() => expect(onStall).toHaveBeenCalledExactlyOnceWith('no_space'));
  expect(watch.isStopped).toBe(true);
  await vi.waitFor(() => expect(conts()).toBeGreaterThan(0));
  // The disk still has no space.
  monitor.write(`{"return":{},"id":"cont"}\n{"event":"RESUME"}\n${stop}`);
  const release = watch.hold();
  await watch.untilHeld();
  const before = conts();
  monitor.write(status('io-error').repeat(3));
  await vi.waitFor(() => expect(watch.isStopped).toBe(true));
  expect(conts()).toBe(before);
  release();
  await vi.waitFor(() => expect(conts()).toBe(before + 1));
  monitor.write('{"return":{},"id":"cont"}\n{"event":"RESUME"}\n');
  await vi.waitFor(() => expect(watch.isStopped).toBe(false));
  await vi.waitFor(() => expect(onStall).toHaveBeenLastCalledWith(null), { timeout: 10_000 });
  expect(onLost).not.toHaveBeenCalled();
  watch.close();
});

test('a VM that resumes after a stop is not asked, and a paused one is not lost', async () => {
  const { monitor, watch } = await connected();
  monitor.write('{"event":"STOP"}\n{"event":"RESUME"}\n{"event":"STOP"}\n');
  await vi.waitFor(() => expect(asked).toHaveLength(3));
  monitor.write(status('paused'));
  monitor.write('{"event":"RESUME"}\n{"event":"STOP"}\n');
  await vi.waitFor(() => expect(asked).toHaveLength(4));
  expect(onLost).not.toHaveBeenCalled();
  watch.close();
});

test.each([
  ['a line without an end', 'x'.repeat(1 << 20)],
  ['what is no JSON', 'hello\n'],
])('the connection to a monitor that sends %s is closed', async (_, text) => {
  const { monitor } = await connected();
  const closed = new Promise((resolve) => monitor.once('close', resolve));
  monitor.write(text);
  await closed;
  expect(onLost).not.toHaveBeenCalled();
});

test('a flooding monitor is read one buffer at a time, and its unknown messages are ignored', async () => {
  const { monitor, watch } = await connected();
  const odd = 'null\n0\n[]\n""\n{"event":7}\n{"return":null}\n{"return":{"status":{}}}\n'.repeat(40_000);
  monitor.write(odd);
  // Whatever is sent, other work of this process goes on in between.
  let turns = 0;
  const timer = setInterval(() => (turns += 1), 1);
  await vi.waitFor(() => expect(monitor.writableLength).toBe(0), { timeout: 20_000 });
  clearInterval(timer);
  expect(turns).toBeGreaterThan(20);
  expect(onLost).not.toHaveBeenCalled();
  watch.close();
});

test('a VM that is lost before it runs is not waited for', async () => {
  server.on('connection', (monitor: Socket) => void monitor.write(status('internal-error')));
  await expect(waitUntilRunning(path, AbortSignal.timeout(10_000))).rejects.toMatchObject({
    code: 'vm_start_failed',
    message: expect.stringContaining('internal-error'),
  });
});

test('a process that does not end after a kill is reported, and not waited for', async () => {
  const child = spawn('sleep', ['60']);
  const pid = child.pid ?? 0;
  const exited = once(child, 'exit');
  const id = { pid, startTicks: (await readStartTicks(pid)) ?? 0 };
  // As with a process that the kernel holds.
  await expect(endProcess(id, new Promise(() => undefined), 50)).rejects.toMatchObject({
    code: 'vmm_timeout',
    message: `Process ${pid} has not ended within 50 ms of SIGKILL.`,
  });
  await exited;
  await endProcess(id, exited, 50);
});
