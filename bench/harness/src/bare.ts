import { type ChildProcess, spawn } from 'node:child_process';
import { once, setMaxListeners } from 'node:events';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { memBytesOf } from '@forkd/api/constants';
import { anySignal, restoreArguments, waitUntilRunning } from '@forkd/engine';
import type { Lab, Point } from '@forkd/testing';
import { settled } from './statistics.ts';

const PAGE_BYTES = 4096;
const HEADER_BYTES = 40;
const EXTENT_BYTES = 16;
const START_TIMEOUT_MS = 60_000;

/** The parts of the lab that hold the template. */
type BlobSource = Pick<Lab, 'blob' | 'rootImage'>;

export interface BareVm {
  pid: number;
  child: ChildProcess;
  dir: string;
  exited: Promise<unknown>;
}

/**
 * The baseline of a fork: the same VM restored by QEMU alone. It has no shim and no pager. Its memory is a private mapping of
 * one plain file in a tmpfs, made of the template's only layer.
 */
export class BareImage implements AsyncDisposable {
  readonly memory: string;
  readonly #dir: string;
  readonly #lab: BlobSource;
  readonly #template: Point;
  readonly #running = new Set<BareVm>();

  private constructor(dir: string, lab: BlobSource, template: Point) {
    this.#dir = dir;
    this.#lab = lab;
    this.#template = template;
    this.memory = join(dir, 'memory');
  }

  static async make(lab: BlobSource, template: Point): Promise<BareImage> {
    const [layer, ...others] = template.stack;
    if (layer === undefined || others.length > 0) throw new Error('a bare image is made of one layer');
    const image = new BareImage(await mkdtemp('/dev/shm/fk-bare-'), lab, template);
    await writeMemory(lab.blob(layer), image.memory, memBytesOf(template.machine));
    return image;
  }

  /** Restores n VMs at the same time. `ms` is the time from the start of the first process until each VM runs. */
  async restore(n: number, signal: AbortSignal): Promise<{ vm: BareVm; ms: number }[]> {
    const args = restoreArguments(this.#template.machine, {
      memoryPath: this.memory,
      rootImagePath: this.#lab.rootImage,
      consolePath: 'console.log',
      monitor: 'path=monitor.sock',
      pagerMonitor: 'path=pager.sock',
      channel: 'path=channel.sock',
      descriptors: [],
    });
    const dirs = await settled(Array.from({ length: n }, () => mkdtemp('/tmp/fk-bare-')));
    // Each VM has its own descriptor, since a shared one would share its file offset.
    const states = await settled(dirs.map(() => open(this.#template.deviceState, 'r')));
    try {
      const start = performance.now();
      const vms = dirs.map((dir, index) => this.#start(dir, args, states[index]?.fd ?? 0));
      const deadline = anySignal(signal, AbortSignal.timeout(START_TIMEOUT_MS));
      setMaxListeners(0, deadline);
      return await settled(
        vms.map(async (vm) => {
          await waitUntilRunning(join(vm.dir, 'monitor.sock'), deadline);
          return { vm, ms: performance.now() - start };
        }),
      );
    } finally {
      await settled(states.map((state) => state.close()));
    }
  }

  #start(dir: string, args: readonly string[], stateFd: number): BareVm {
    const child = spawn('qemu-system-x86_64', args, { cwd: dir, stdio: ['ignore', 'ignore', 'ignore', stateFd] });
    const vm = { pid: child.pid ?? 0, child, dir, exited: once(child, 'exit') };
    this.#running.add(vm);
    return vm;
  }

  async end(vm: BareVm): Promise<void> {
    vm.child.kill('SIGKILL');
    await vm.exited;
    await rm(vm.dir, { recursive: true, force: true });
    this.#running.delete(vm);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#running].map((vm) => this.end(vm)));
    await rm(this.#dir, { recursive: true, force: true });
  }
}

/** Writes the pages of a layer's file (see `crates/layers/src/file.rs`) to a plain, sparse memory file. */
async function writeMemory(layer: string, path: string, memBytes: number): Promise<void> {
  const bytes = await readFile(layer);
  const extents = Number(bytes.readBigUInt64LE(24));
  const out = await open(path, 'w');
  try {
    await out.truncate(memBytes);
    let at = Math.ceil((HEADER_BYTES + extents * EXTENT_BYTES) / PAGE_BYTES) * PAGE_BYTES;
    for (let index = 0; index < extents; index += 1) {
      const entry = HEADER_BYTES + index * EXTENT_BYTES;
      const page = Number(bytes.readBigUInt64LE(entry));
      const length = Number(bytes.readBigUInt64LE(entry + 8)) * PAGE_BYTES;
      await out.write(bytes, at, length, page * PAGE_BYTES);
      at += length;
    }
  } finally {
    await out.close();
  }
}
