import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { anySignal, bootArguments, waitUntilRunning } from '@forkd/engine';
import { GuestAgent } from '@forkd/guest';
import { BUILT, type Lab } from '@forkd/testing';
import type { DiskLoad } from './disk-summary.ts';

const START_TIMEOUT_MS = 60_000;
const PROGRAM = '/usr/local/bin/forkd-disk-load';

const requests: Record<DiskLoad, readonly string[]> = {
  'read in order': ['read', 'seq'],
  'read 4 KiB anywhere': ['read', 'random'],
  'write in order': ['write', 'seq'],
  'write 4 KiB anywhere': ['write', 'random'],
  'write in order after a branch': ['write', 'seq'],
};

/** A device of a guest, for which `options` are those of `blockdev-add`. */
export interface Drive {
  node: string;
  options: object;
}

interface Reply {
  return?: unknown;
  error?: { desc: string };
}

/** A VM of QEMU alone, with devices beside its root. */
export class DiskVm implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #agent: GuestAgent;
  readonly #monitor: Socket;
  readonly #waiting: ((reply: Reply) => void)[] = [];
  readonly #drives: readonly Drive[];

  private constructor(child: ChildProcess, agent: GuestAgent, monitor: Socket, drives: readonly Drive[]) {
    this.#child = child;
    this.#agent = agent;
    this.#monitor = monitor;
    this.#drives = drives;
    const lines = createInterface(monitor);
    // A connection that breaks is closed, too, and that is when its requests fail.
    lines.on('error', () => undefined);
    lines.on('line', (line) => {
      const message = JSON.parse(line) as Reply;
      if (message.return !== undefined || message.error !== undefined) this.#waiting.shift()?.(message);
    });
    monitor.once('close', () => {
      for (const waiting of this.#waiting) waiting({ error: { desc: 'QEMU has ended' } });
    });
  }

  static async boot(lab: Lab, memMib: number, drives: readonly Drive[], signal: AbortSignal): Promise<DiskVm> {
    const dir = join(lab.dir, 'alone');
    await mkdir(dir);
    const host = {
      memoryPath: join(dir, 'memory'),
      rootImagePath: lab.rootImage,
      consolePath: 'console.log',
      monitor: 'path=monitor.sock',
      pagerMonitor: 'path=second.sock',
      channel: 'path=channel.sock',
      descriptors: [],
    };
    const devices = drives.flatMap(({ node, options }) => [
      '-blockdev',
      JSON.stringify({ 'node-name': node, discard: 'unmap', 'detect-zeroes': 'unmap', ...options }),
      '-device',
      `virtio-blk-device,drive=${node}`,
    ]);
    const args = [...bootArguments(lab.engine.machine(memMib, 1), lab.pager.tscKhz, host, lab.kernel), ...devices];
    const child = spawn('qemu-system-x86_64', args, { cwd: dir, stdio: ['ignore', 'ignore', 'inherit'] });
    try {
      const deadline = anySignal(signal, AbortSignal.timeout(START_TIMEOUT_MS));
      await waitUntilRunning(join(dir, 'monitor.sock'), deadline);
      const agent = await GuestAgent.connect(join(dir, 'channel.sock'), { timeoutMs: START_TIMEOUT_MS, signal });
      await agent.writeFile(PROGRAM, await readFile(BUILT.diskLoad), { mode: 0o755 });
      const monitor = createConnection(join(dir, 'second.sock'));
      await once(monitor, 'connect');
      const vm = new DiskVm(child, agent, monitor, drives);
      await vm.monitor('qmp_capabilities');
      return vm;
    } catch (error) {
      await end(child);
      throw error;
    }
  }

  async monitor(execute: string, args: object = {}): Promise<unknown> {
    const replied = new Promise<Reply>((resolve) => this.#waiting.push(resolve));
    this.#monitor.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    const { error, return: result } = await replied;
    if (error) throw new Error(`${execute}: ${error.desc}`);
    return result;
  }

  /** Writes the first `mib` MiB of a device once. */
  async fill(node: string, mib: number): Promise<void> {
    await this.#run(node, ['write', 'seq', String(mib), '0']);
  }

  /** Requests a second, or MiB a second of those in order. */
  async load(node: string, load: DiskLoad, mib: number, ms: number): Promise<number> {
    const done = await this.#run(node, [...requests[load], String(mib), String(ms)]);
    const seconds = done.elapsed_us / 1e6;
    return load.includes('4 KiB') ? done.requests / seconds : done.bytes / 2 ** 20 / seconds;
  }

  async #run(node: string, args: readonly string[]): Promise<{ requests: number; bytes: number; elapsed_us: number }> {
    // The root is the first device.
    const letter = 'bcdefgh'[this.#drives.findIndex((drive) => drive.node === node)];
    const { exitCode, stdout, stderr } = await this.#agent.run([PROGRAM, `/dev/vd${letter}`, ...args]);
    const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
    if (exitCode !== 0) throw new Error(text(stderr));
    return JSON.parse(text(stdout)) as { requests: number; bytes: number; elapsed_us: number };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#monitor.destroy();
    await this.#agent.close();
    await end(this.#child);
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}
