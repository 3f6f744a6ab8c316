/**
 * Proves that the disk server and the NBD client of stock QEMU understand each other, without a guest: what QEMU is told to write
 * is on the disk, in requests of any size, and QEMU goes on with the next server after one was killed.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, onTestFinished, test } from 'vitest';
import { dial } from '../src/dial.ts';
import { DiskServer } from '../src/disk/client.ts';
import { onLine } from '../src/lines.ts';

const PROGRAM = join(import.meta.dirname, '../../../target/release/forkd-disk');
const MIB = 2 ** 20;
const SIZE_BYTES = 16 * MIB;
const KEY = 'a-secret-key';
const START_TIMEOUT_MS = 30_000;

interface Reply {
  return?: unknown;
  error?: object;
}

/** A QEMU without a VM. Its block layer does what it is told. */
class Qemu {
  readonly process: ChildProcess;
  readonly #replies: ((reply: Reply) => void)[] = [];
  readonly #output: AsyncIterator<string>;
  #send: (line: string) => void = () => undefined;

  constructor(socket: string) {
    // QEMU prints what its requests came to on its standard output, which must not wait in a buffer.
    const program = ['-oL', 'qemu-system-x86_64', '-machine', 'none', '-nodefaults', '-display', 'none'];
    const monitor = ['-qmp', `unix:${socket},server=on,wait=off`];
    this.process = spawn('stdbuf', [...program, ...monitor], { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#output = createInterface(this.process.stdout!)[Symbol.asyncIterator]();
  }

  async connect(path: string): Promise<void> {
    const socket = await dial(path, AbortSignal.timeout(START_TIMEOUT_MS));
    onLine(socket, (line) => {
      const message = JSON.parse(line) as Reply;
      if ('return' in message || 'error' in message) this.#replies.shift()?.(message);
    });
    this.#send = (line) => void socket.write(line);
    await this.monitor('qmp_capabilities');
  }

  async monitor(execute: string, args: object = {}): Promise<unknown> {
    const replied = new Promise<Reply>((resolve) => this.#replies.push(resolve));
    this.#send(`${JSON.stringify({ execute, arguments: args })}\n`);
    const { error, return: result } = await replied;
    if (error) throw new Error(JSON.stringify(error));
    return result;
  }

  attach(node: string, socket: string): Promise<unknown> {
    const server = { type: 'unix', path: socket };
    const options = {
      driver: 'nbd',
      'node-name': node,
      server,
      export: KEY,
      discard: 'unmap',
      'detect-zeroes': 'unmap',
    };
    return this.monitor('blockdev-add', options);
  }

  /** Has QEMU carry out a request, and returns the first line that it says about it. */
  async io(node: string, command: string): Promise<string> {
    await this.monitor('human-monitor-command', { 'command-line': `qemu-io ${node} "${command}"` });
    const line = await this.#line();
    // The second line of a success is how long it took.
    if (/ bytes at offset /.test(line)) await this.#line();
    return line;
  }

  async #line(): Promise<string> {
    const line = await this.#output.next();
    return line.done === true ? '' : line.value;
  }
}

async function start(): Promise<{ dir: string; qemu: Qemu; ensure: () => Promise<DiskServer> }> {
  const dir = await mkdtemp(join(tmpdir(), 'forkd-disk-qemu-'));
  await mkdir(join(dir, 'store'));
  const ensure = (): Promise<DiskServer> =>
    DiskServer.ensure({ bin: PROGRAM, runDir: join(dir, 'run'), storeDir: join(dir, 'store') });
  const qemu = new Qemu(join(dir, 'qmp.sock'));
  onTestFinished(async () => {
    qemu.process.kill('SIGKILL');
    await once(qemu.process, 'close');
    await (await ensure()).shutdown();
    await rm(dir, { recursive: true });
  });
  await qemu.connect(join(dir, 'qmp.sock'));
  return { dir, qemu, ensure };
}

test('what QEMU writes in requests of any size is on the disk', async () => {
  const { dir, qemu, ensure } = await start();
  const server = await ensure();
  await server.open({ key: KEY, size_bytes: SIZE_BYTES, layers: [], pid: qemu.process.pid ?? null });
  await qemu.attach('disk', server.vmmSocket);
  const expected = Buffer.alloc(SIZE_BYTES);
  const write = async (at: number, bytes: number, pattern: number): Promise<void> => {
    expect(await qemu.io('disk', `write -P ${pattern} ${at} ${bytes}`)).toMatch(/^wrote/);
    expected.fill(pattern, at, at + bytes);
  };
  await write(512, 1024, 0x11);
  await write(8 * MIB - 512, 5 * MIB + 1024, 0x22);
  await write(2 * MIB, MIB, 0x33);
  // Zeros, three times: as a request of its own, found in the data, and by a discard.
  expect(await qemu.io('disk', `write -z -u ${9 * MIB} ${MIB}`)).toMatch(/^wrote/);
  expected.fill(0, 9 * MIB, 10 * MIB);
  await write(10 * MIB, MIB, 0);
  expect(await qemu.io('disk', `discard ${2 * MIB + 4096} 64k`)).toMatch(/^discard/);
  expected.fill(0, 2 * MIB + 4096, 2 * MIB + 4096 + 65536);
  expect(await qemu.io('disk', `read -P 0x22 ${11 * MIB} ${MIB}`)).toMatch(/^read/);
  expect(await qemu.io('disk', `read -P 0 ${9 * MIB} ${2 * MIB}`)).toMatch(/^read/);
  const { layers, own_bytes } = await server.freeze(KEY);
  // Blocks of zeros take no space.
  expect(own_bytes).toBe(4096 + 3 * MIB + 2 * 4096 + MIB - 65536);
  await write(2 * MIB, 4096, 0x44);
  await server.exportImage(layers, join(dir, 'image'));
  expected.fill(0x33, 2 * MIB, 2 * MIB + 4096);
  expect((await readFile(join(dir, 'image'))).equals(expected)).toBe(true);
});

test('QEMU goes on with the next server after one was killed', async () => {
  const { qemu, ensure } = await start();
  const pid = qemu.process.pid ?? null;
  const first = await ensure();
  await first.open({ key: KEY, size_bytes: SIZE_BYTES, layers: [], pid });
  await qemu.attach('first', first.vmmSocket);
  expect(await qemu.io('first', 'write -P 7 0 64k')).toMatch(/^wrote/);
  process.kill(first.pid, 'SIGKILL');
  await first.gone;
  expect(await qemu.io('first', 'write -P 8 0 64k')).toMatch(/^write failed/);
  const second = await ensure();
  // Nobody has vouched for the VMM yet.
  await expect(qemu.attach('second', second.vmmSocket)).rejects.toThrow(/policy|denied|permi/i);
  await second.open({ key: KEY, size_bytes: SIZE_BYTES, layers: null, pid });
  await qemu.attach('second', second.vmmSocket);
  await qemu.monitor('blockdev-del', { 'node-name': 'first' });
  expect(await qemu.io('second', 'read -P 7 0 64k')).toMatch(/^read/);
});
