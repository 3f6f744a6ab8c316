/** Firecracker's stand-in as `firecracker` on PATH, in a directory of the test's own, and what VMs need beside it. */
import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { test as base } from 'vitest';
import { dial } from '../src/dial.ts';
import { FirecrackerApi } from '../src/firecracker/api.ts';
import { FirecrackerEngine } from '../src/firecracker/engine.ts';
import { FILES, type Started, startProcess } from '../src/firecracker/process.ts';
import type { FirecrackerVm } from '../src/firecracker/vm.ts';
import { Pager } from '../src/pager/client.ts';
import type { BranchDone } from '../src/pager/wire.ts';
import { killProcess } from '../src/process.ts';
import type { KernelFiles } from '../src/types.ts';

export const TARGET = join(import.meta.dirname, '../../../target/release');
/** What is linked statically, and so runs in a root of its own. */
const STATIC = join(import.meta.dirname, '../../../target/guest/x86_64-unknown-linux-gnu/release');
const PATH_BEFORE = process.env['PATH'] ?? '';

export const MEM_MIB = 32;
export const MEM_BYTES = MEM_MIB * 2 ** 20;

/** As `testing/crates/firecracker-stand-in/src/config.rs` reads it. */
export interface StandInConfig {
  version?: string;
  extensions?: boolean | ('shared_memory' | 'vmstate_only' | 'write_protect')[];
  fault?:
    | 'exit_early'
    | 'never_listen'
    | 'never_answer'
    | 'exit_at_start'
    | 'disk_full'
    | 'vmstate_fails'
    | 'exit_at_vmstate'
    | 'no_handover'
    | 'odd_handover'
    | 'talkative_handover';
  filters?: 'none' | 'allowing' | 'from_load' | 'from_run';
  write_features?: 'all' | 'alone';
  agent?: string;
  gap_at_mib?: number;
}

/** The layers of a snapshot, bottom first. */
export const digests = (done: BranchDone): string[] => done.stack.map(({ digest }) => digest);

/** A test's directory, with the stand-in on PATH. */
export class Bench implements AsyncDisposable {
  readonly dir: string;
  readonly kernel: KernelFiles;
  readonly rootImage: string;
  readonly program: string;
  readonly #pagers: Pager[] = [];
  readonly #started: Started[] = [];
  readonly #vms: FirecrackerVm[] = [];
  readonly #apis: FirecrackerApi[] = [];
  #serial = 0;

  private constructor(dir: string) {
    this.dir = dir;
    this.kernel = { vmlinuz: join(dir, 'vmlinux'), initramfs: join(dir, 'initramfs') };
    this.rootImage = join(dir, 'root.erofs');
    this.program = join(dir, 'bin/firecracker');
  }

  /** `jailed` puts the jailer's stand-in beside Firecracker's. */
  static async open(config: StandInConfig = {}, jailed = false): Promise<Bench> {
    const bench = new Bench(await mkdtemp('/tmp/fk-fc-'));
    try {
      await bench.#prepare(config, jailed);
      return bench;
    } catch (error) {
      await rm(bench.dir, { recursive: true, force: true });
      throw error;
    }
  }

  /** What processes that are started from now on are to be. */
  async configure(config: StandInConfig): Promise<void> {
    await writeFile(join(this.dir, 'bin/stand-in.json'), JSON.stringify(config));
  }

  engine(name = 'engine'): Promise<FirecrackerEngine> {
    return FirecrackerEngine.create({ dir: join(this.dir, name) });
  }

  async pager(bin = join(TARGET, 'forkd-pager')): Promise<Pager> {
    const [runDir, storeDir] = [join(this.dir, 'run'), join(this.dir, 'store')];
    const pager = await Pager.ensure({ bin, runDir, storeDir });
    this.#pagers.push(pager);
    return pager;
  }

  /** What `boot` and `restore` have in common. */
  spec(pager: Pager) {
    const id = `sb-${(this.#serial += 1)}`;
    return { id, dir: join(this.dir, 'vms', id), rootImage: this.rootImage, pager, timeoutMs: 20_000 };
  }

  boot(engine: FirecrackerEngine, pager: Pager): Promise<FirecrackerVm> {
    return this.keep(engine.boot({ ...this.spec(pager), memMib: MEM_MIB, vcpus: 1, kernel: this.kernel }));
  }

  async keep(starting: Promise<FirecrackerVm>): Promise<FirecrackerVm> {
    const vm = await starting;
    this.#vms.push(vm);
    return vm;
  }

  /** A process without a VM, to be spoken to over its API. */
  async bare(): Promise<{ api: FirecrackerApi; started: Started; dir: string }> {
    const dir = join(this.dir, 'bare', String((this.#serial += 1)));
    await mkdir(dir, { recursive: true });
    await symlink(this.rootImage, join(dir, FILES.root));
    const started = await startProcess(this.program, 'bare', dir);
    this.#started.push(started);
    const api = new FirecrackerApi(join(dir, FILES.api));
    this.#apis.push(api);
    (await dial(api.socket, AbortSignal.timeout(10_000))).destroy();
    return { api, started, dir };
  }

  /** All of a paused VM's memory, as Firecracker writes it. */
  async memoryOf(api: FirecrackerApi): Promise<Buffer> {
    const path = join(this.dir, `truth-${(this.#serial += 1)}`);
    await api.createSnapshot({ snapshot_type: 'Full', snapshot_path: `${path}.state`, mem_file_path: path });
    return readFile(path);
  }

  /** All that a stack of layers says. */
  async memoryIn(pager: Pager, stack: readonly string[]): Promise<Buffer> {
    const path = join(this.dir, `export-${(this.#serial += 1)}`);
    await pager.exportMemory(MEM_BYTES, stack, path);
    return readFile(path);
  }

  blob(digest: string): string {
    return join(this.dir, 'store/blobs/sha256', digest.replace('sha256:', ''));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.env['PATH'] = PATH_BEFORE;
    for (const vm of this.#vms) await vm.kill();
    for (const api of this.#apis) await api.close();
    for (const started of this.#started) {
      await killProcess(started);
      await started.exited;
    }
    for (const pager of this.#pagers) await pager.shutdown().catch(() => undefined);
    await rm(this.dir, { recursive: true, force: true });
  }

  async #prepare(config: StandInConfig, jailed: boolean): Promise<void> {
    await mkdir(join(this.dir, 'bin'));
    await copyFile(join(jailed ? STATIC : TARGET, 'forkd-firecracker-stand-in'), this.program);
    if (jailed) await copyFile(join(STATIC, 'forkd-jailer-stand-in'), join(this.dir, 'bin/jailer'));
    await this.configure(config);
    await writeFile(this.kernel.vmlinuz, fakeKernel());
    await writeFile(this.kernel.initramfs, randomBytes(200_000));
    await writeFile(this.rootImage, randomBytes(8192));
    process.env['PATH'] = `${join(this.dir, 'bin')}${delimiter}${PATH_BEFORE}`;
  }
}

/** Nothing executes it, but what it is must be right. */
export function fakeKernel(): Buffer {
  return Buffer.concat([Buffer.from('\x7fELF', 'latin1'), randomBytes(300_000)]);
}

/** The pages that Firecracker writes into a VM that it loads. */
export const LOAD_PAGES: readonly number[] = [0xde, 0xdf];

/** How much two memories differ, in pages, but for those that may. */
export function differingPages(a: Buffer, b: Buffer, mayDiffer: readonly number[] = []): number {
  if (a.length !== b.length) return Infinity;
  let differing = 0;
  for (let at = 0; at < a.length; at += 4096) {
    if (a.compare(b, at, at + 4096, at, at + 4096) !== 0 && !mayDiffer.includes(at / 4096)) differing += 1;
  }
  return differing;
}

/** `test` with a bench, a pager and an engine of its own, each made for the tests that ask for it. */
export const test = base
  .extend('bench', async ({}, { onCleanup }) => {
    const bench = await Bench.open();
    onCleanup(() => bench[Symbol.asyncDispose]());
    return bench;
  })
  .extend('pager', ({ bench }) => bench.pager())
  .extend('engine', ({ bench }) => bench.engine());
