/**
 * Memory files on file systems whose blocks can belong to several files: what a stack holds is not written a second time, and
 * no byte differs. Each file system is made in a file and mounted, where there is a program that makes it and the kernel has it.
 */
import { execFile } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { mkdir, mkdtemp, open, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { Bench, differingPages, MEM_BYTES } from './firecracker-support.ts';

const run = promisify(execFile);

/** Where the guest has nothing yet. */
const CHANGED_AT = 8 * 2 ** 20;
const CHANGED_BYTES = 256 * 1024;

/** The smallest that XFS is made with. */
const DISK_BYTES = 320 * 2 ** 20;

test.for(['xfs', 'btrfs'])('on %s a memory file shares its blocks with the layers', async (kind, context) => {
  const make = `mkfs.${kind}`;
  const there = await run(make, ['-V']).then(
    () => true,
    () => false,
  );
  context.skip(!there, `${make} is not installed`);
  context.skip(process.geteuid?.() !== 0, 'only root mounts');
  const known = (await readFile('/proc/filesystems', 'utf8')).split(/\s+/);
  context.skip(!known.includes(kind), `${kind} is not among this kernel's file systems (/proc/filesystems)`);
  const made = await Disk.make(make);
  if (typeof made === 'string') return context.skip(`no ${kind} can be mounted here: ${made.trim()}`);
  await using disk = made;
  await using bench = await Bench.open();
  await mkdir(join(disk.dir, 'store'));
  await symlink(join(disk.dir, 'store'), join(bench.dir, 'store'));
  const pager = await bench.pager();
  const engine = await bench.engine();
  const vm = await bench.boot(engine, pager);
  await vm.pause();
  const base = (await vm.branch({ mode: 'full', resume: false })).stack.map(({ digest }) => digest);
  // A difference in one piece, and longer than what is written all the same.
  const truth = await bench.memoryOf(vm.api);
  randomFillSync(truth, CHANGED_AT, CHANGED_BYTES);
  const changed = join(bench.dir, 'changed');
  await writeFile(changed, truth);
  const file = { mem_bytes: MEM_BYTES, stack: base, path: changed, tracked: false };
  const stack = (await pager.importMemory(file)).stack.map(({ digest }) => digest);
  expect(stack).toHaveLength(2);

  const path = join(disk.dir, 'memory');
  await pager.exportMemory(MEM_BYTES, stack, path);
  await run('sync', [path]);
  const extents = (await run('filefrag', ['-v', path])).stdout.split('\n').filter((line) => /^\s*\d+:/.test(line));
  // The kernel is in one piece, and so is the difference; pages that the guest has written here and there are too few to share.
  expect(extents.filter((line) => line.includes('shared')).length).toBeGreaterThan(1);
  expect((await stat(path)).blocks * 512).toBeLessThan(MEM_BYTES);
  expect(differingPages(await readFile(path), truth)).toBe(0);
});

/** A file system of the test's own. */
class Disk implements AsyncDisposable {
  readonly dir: string;
  readonly #image: string;

  private constructor(dir: string, image: string) {
    this.dir = dir;
    this.#image = image;
  }

  /** One that is mounted, or why there is none: a container may have no loop device. */
  static async make(program: string): Promise<Disk | string> {
    const dir = await mkdtemp('/tmp/fk-disk-');
    const disk = new Disk(dir, `${dir}.img`);
    const file = await open(disk.#image, 'wx');
    await file.truncate(DISK_BYTES);
    await file.close();
    try {
      await run(program, [disk.#image]);
      await run('mount', ['-o', 'loop', disk.#image, dir]);
      return disk;
    } catch (error) {
      await disk.#remove();
      return (error as Error).message;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run('umount', [this.dir]);
    await this.#remove();
  }

  async #remove(): Promise<void> {
    await rm(this.#image, { force: true });
    await rm(this.dir, { recursive: true });
  }
}
