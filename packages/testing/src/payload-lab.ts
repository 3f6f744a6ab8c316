import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join, resolve } from 'node:path';
import { memBytesOf } from '@forkd/api/constants';
import {
  type Accelerator,
  type BranchDone,
  type CpuModel,
  type Engine,
  FirecrackerEngine,
  type KernelFiles,
  type Machine,
  Pager,
  QemuEngine,
  type QemuOptions,
  type Shape,
  type Vm,
  type WindowKind,
} from '@forkd/engine';
import type { Point } from './lab.ts';
import { BUILT, requireBuilt, TEST_CACHE } from './paths.ts';
import { PayloadConsole, payloadFiles, type PayloadOptions } from './payload.ts';

const ROOT_IMAGE_BYTES = 1 << 20;

export interface PayloadLabOptions extends PayloadOptions {
  /** Accelerator with which QEMU runs the guests. */
  accelerator?: Accelerator;
  /** The conductor of the pauses of live branches. Default: `inside`, where that can be proved. */
  window?: WindowKind;
  /** A `firecracker` program that runs the guests instead of QEMU. */
  firecracker?: string;
  /** VMMs that may wait for a restore. Default: none. */
  poolMax?: number;
}

/** A private pager and engine whose guests have no kernel, so that they run even where KVM runs no Linux. */
export class PayloadLab implements AsyncDisposable {
  readonly dir: string;
  readonly engine: Engine;
  /** Replaced by {@link PayloadLab.newPager}. */
  pager: Pager;
  readonly rootImage: string;
  readonly #kernel: KernelFiles;
  readonly #vms = new Set<Vm>();
  #serial = 0;

  private constructor(dir: string, pager: Pager, engine: Engine, rootImage: string, kernel: KernelFiles) {
    this.dir = dir;
    this.pager = pager;
    this.engine = engine;
    this.rootImage = rootImage;
    this.#kernel = kernel;
  }

  static async start(options: PayloadLabOptions): Promise<PayloadLab> {
    const { firecracker, accelerator, window = 'inside', poolMax = 0, ...payload } = options;
    await requireBuilt();
    // The path must be short, because the length of socket paths is limited.
    const dir = await mkdtemp('/tmp/fk-');
    const pager = await connect(dir);
    if (firecracker !== undefined) await putOnPath(firecracker, join(dir, 'bin'));
    const kernel = await payloadFiles(dir, payload);
    const windowTrial = { kernel, dir };
    const engine =
      firecracker === undefined
        ? await qemu(dir, pager, poolMax, {
            ...(accelerator && { accelerator }),
            ...(window === 'inside' && { windowTrial }),
          })
        : await FirecrackerEngine.create({ dir: join(dir, 'engine') });
    const rootImage = join(dir, 'root');
    await writeFile(rootImage, Buffer.alloc(ROOT_IMAGE_BYTES));
    return new PayloadLab(dir, pager, engine, rootImage, kernel);
  }

  async boot(memMib: number, vcpus = 1, cpuModel: CpuModel = 'host'): Promise<Vm> {
    return this.#keep(await this.engine.boot({ ...this.#spec(), memMib, vcpus, cpuModel, kernel: this.#kernel }));
  }

  async restore(point: Point): Promise<Vm> {
    return this.#keep(await this.engine.restore({ ...this.#spec(), ...point }));
  }

  /** Resolves when `count` VMMs wait for a restore from `point`. All but one have loaded it. */
  fill(point: Point, count: number): Promise<void> {
    return this.engine.startAhead(this.#shape(point.machine), this.pager, count, { ...point, refresh: [] });
  }

  /** Starts another pager in place of one that has ended. */
  async newPager(): Promise<void> {
    this.pager = await connect(this.dir);
  }

  /** The point from which a branch of `vm` starts. */
  point(vm: Vm, done: BranchDone): Point {
    return {
      machine: vm.record.machine,
      stack: done.stack.map((layer) => layer.digest),
      deviceState: this.blob(done.device_state.digest),
    };
  }

  /** Guest memory as the layers of a branch describe it. */
  async memoryIn(vm: Vm, done: BranchDone): Promise<Buffer> {
    const file = join(this.dir, `memory-${(this.#serial += 1)}`);
    const { stack } = this.point(vm, done);
    await this.pager.exportMemory(memBytesOf(vm.record.machine), stack, file);
    const memory = await readFile(file);
    await rm(file);
    return memory;
  }

  /** Drops all that a branch has captured, in memory and on disk. The layers of `under` stay. */
  async discard(done: BranchDone, under: Point): Promise<void> {
    const captured = done.stack.map((layer) => layer.digest).filter((digest) => !under.stack.includes(digest));
    for (const digest of captured) await this.pager.dropLayer(digest);
    for (const digest of [...captured, done.device_state.digest]) await rm(this.blob(digest), { force: true });
  }

  console(vm: Vm): PayloadConsole {
    return new PayloadConsole(vm.record.dir);
  }

  async kill(vm: Vm): Promise<void> {
    await vm.kill();
    this.#vms.delete(vm);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#vms].map((vm) => vm.kill()));
    await this.engine.close();
    // A test may have ended the pager.
    await this.pager.shutdown().catch(() => undefined);
    await rm(this.dir, { recursive: true, force: true });
  }

  /** The file of a blob of the store. */
  blob(digest: string): string {
    return join(this.dir, 'store/blobs/sha256', digest.replace('sha256:', ''));
  }

  #keep(vm: Vm): Vm {
    this.#vms.add(vm);
    return vm;
  }

  #shape(machine: Machine): Shape {
    return { machine, rootImage: this.rootImage };
  }

  #spec() {
    const id = `vm${(this.#serial += 1)}`;
    return { id, dir: join(this.dir, id), rootImage: this.rootImage, pager: this.pager, timeoutMs: 60_000 };
  }
}

function connect(dir: string): Promise<Pager> {
  const [runDir, storeDir] = [join(dir, 'run'), join(dir, 'store')];
  return Pager.ensure({ bin: BUILT.pager, runDir, storeDir });
}

type QemuChoices = Pick<QemuOptions, 'accelerator' | 'windowTrial'>;

function qemu(dir: string, pager: Pager, poolMax: number, choices: QemuChoices): Promise<QemuEngine> {
  const pool = { dir: join(dir, 'pool'), sizeMax: poolMax };
  const binaries = { shim: BUILT.shim, jail: BUILT.jail };
  return QemuEngine.create({ cacheDir: TEST_CACHE, ...binaries, pager, pool, ...choices });
}

/** Puts `program` first on the PATH as `firecracker`, which is the name that the engine looks for. */
async function putOnPath(program: string, dir: string): Promise<void> {
  await mkdir(dir);
  await symlink(resolve(program), join(dir, 'firecracker'));
  process.env['PATH'] = `${dir}${delimiter}${process.env['PATH'] ?? ''}`;
}
