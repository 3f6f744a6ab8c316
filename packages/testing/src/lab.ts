import { randomBytes, randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import {
  Pager,
  QemuEngine,
  type Branch,
  type BranchDone,
  type KernelFiles,
  type Machine,
  type RestoreSpec,
  type Shape,
  type Vm,
  type WindowKind,
} from '@forkd/engine';
import { GuestAgent } from '@forkd/guest';
import { buildRoot, ensureInitramfs, ensureKernel } from '@forkd/images';
import { BUILT, requireBuilt, TEST_CACHE } from './paths.ts';
import { builtOnce, copyStore, sharedDir } from './shared.ts';
import { installStorm } from './storm.ts';

/** A state that a VM can be started from. */
export interface Point {
  machine: Machine;
  stack: readonly string[];
  deviceState: string;
}

/** A running VM and its agent. */
export interface Guest {
  vm: Vm;
  agent: GuestAgent;
}

/** Options for a guest of a lab. */
export interface BootOptions {
  /** Default: 256. */
  memMib?: number;
  /** Default: 1. */
  vcpus?: number;
}

export interface LabOptions {
  /** Cancels VMs that are being started. */
  signal?: AbortSignal | undefined;
  /** VMMs that may wait for a restore, once {@link Lab.fill} has been called. Default: none. */
  poolMax?: number;
  /** The conductor of the pauses of live branches. Default: `inside`, where that can be proved. */
  window?: WindowKind;
}

const MEM_MIB_DEFAULT = 256;
const AGENT_TIMEOUT_MS = 60_000;

/** A private pager and engine in their own directory, without a controller. */
export class Lab implements AsyncDisposable {
  readonly pager: Pager;
  readonly engine: QemuEngine;
  readonly dir: string;
  /** The read-only root that all guests of the lab share. */
  readonly rootImage: string;
  readonly kernel: KernelFiles;
  readonly #signal: AbortSignal | undefined;
  readonly #vms = new Set<Vm>();
  #serial = 0;

  private constructor(parts: {
    dir: string;
    pager: Pager;
    engine: QemuEngine;
    rootImage: string;
    kernel: KernelFiles;
    signal: AbortSignal | undefined;
  }) {
    this.dir = parts.dir;
    this.pager = parts.pager;
    this.engine = parts.engine;
    this.rootImage = parts.rootImage;
    this.kernel = parts.kernel;
    this.#signal = parts.signal;
  }

  static async start({ signal, poolMax = 0, window = 'inside' }: LabOptions = {}): Promise<Lab> {
    // Each VM that is being started listens to the signal, and many VMs may start at the same time.
    if (signal) setMaxListeners(0, signal);
    await requireBuilt();
    const kernel = await ensureKernel({ cacheDir: TEST_CACHE });
    const initramfs = await ensureInitramfs({ cacheDir: TEST_CACHE, kernel, agentBinary: BUILT.agent });
    const root = await buildRoot({ source: 'busybox', cacheDir: TEST_CACHE });
    // The path must be short, because the length of socket paths is limited.
    const dir = await mkdtemp('/tmp/fk-');
    const pager = await Pager.ensure({
      bin: BUILT.pager,
      runDir: join(dir, 'run'),
      storeDir: join(dir, 'store'),
    });
    const binaries = { shim: BUILT.shim, jail: BUILT.jail };
    const pool = { dir: join(dir, 'pool'), sizeMax: poolMax };
    const files = { vmlinuz: kernel.vmlinuz, initramfs };
    const windowTrial = { kernel: files, dir };
    const engine = await QemuEngine.create({
      cacheDir: TEST_CACHE,
      ...binaries,
      pager,
      pool,
      ...(window === 'inside' && { windowTrial }),
    });
    return new Lab({ dir, pager, engine, rootImage: root.erofs, kernel: files, signal });
  }

  /** Boots a guest from its kernel. Resolves when its agent answers. */
  async boot({ memMib = MEM_MIB_DEFAULT, vcpus = 1 }: BootOptions = {}): Promise<Guest> {
    const vm = await this.engine.boot({ ...this.#spec(), memMib, vcpus, kernel: this.kernel });
    return this.join(this.#track(vm));
  }

  /** Boots a guest, lets `warm` prepare it, and takes a template of it. */
  async template(
    warm: (agent: GuestAgent) => Promise<void> = async () => {},
    options: BootOptions = {},
  ): Promise<Point> {
    const guest = await this.boot(options);
    await warm(guest.agent);
    const done = await this.branch(guest, { mode: 'diff', resume: false });
    await this.end(guest);
    return this.point(guest, done);
  }

  /** A template that the files of a test run share. Its guest runs nothing; `storm` adds the program of a storm. */
  async sharedTemplate(kind: 'plain' | 'storm'): Promise<Point> {
    const make = (): Promise<Point> => this.template(kind === 'storm' ? installStorm : undefined);
    const shared = sharedDir();
    if (shared === undefined) return make();
    let own: Point | undefined;
    const dir = await builtOnce(join(shared, `lab-${kind}`), async (draft) => {
      own = await make();
      await copyStore(join(this.dir, 'store'), draft);
      await writeFile(join(draft, 'point.json'), JSON.stringify(own));
    });
    if (own !== undefined) return own;
    await copyStore(dir, join(this.dir, 'store'));
    const point = JSON.parse(await readFile(join(dir, 'point.json'), 'utf8')) as Point;
    return { ...point, deviceState: this.blob(basename(point.deviceState)) };
  }

  /** Starts a guest from a point, and gives it an identity of its own. */
  async fork(point: Point): Promise<Guest> {
    const guest = await this.join(await this.restore(point));
    await this.identify(guest);
    return guest;
  }

  /** Starts a VM from a point. Resolves when it runs. */
  async restore(point: Point, more: Pick<RestoreSpec, 'memoryLimitMib' | 'refresh'> = {}): Promise<Vm> {
    return this.#track(await this.engine.restore({ ...this.#spec(), ...point, ...more }));
  }

  /** Resolves when `count` VMMs wait for a restore from `point`, or as many as `poolMax` allows. All but one have loaded it. */
  fill(point: Point, count: number, refresh: RestoreSpec['refresh'] = []): Promise<void> {
    return this.engine.startAhead(this.#shape(point), this.pager, count, { ...point, refresh });
  }

  async identify(guest: Guest): Promise<void> {
    await guest.agent.identify({
      entropy: randomBytes(64),
      wallClockUnixNs: BigInt(Date.now()) * 1_000_000n,
      hostname: guest.vm.record.id,
      machineId: randomUUID().replaceAll('-', ''),
    });
  }

  branch(guest: Guest, request: Partial<Branch> = {}): Promise<BranchDone> {
    return this.pager.branch({ sandbox: guest.vm.record.id, mode: 'live', resume: true, audit: false, ...request });
  }

  /** The point from which a branch of `guest` starts. */
  point(guest: Guest, done: BranchDone): Point {
    return {
      machine: guest.vm.record.machine,
      stack: done.stack.map((layer) => layer.digest),
      deviceState: this.blob(done.device_state.digest),
    };
  }

  /** Drops all that a branch has captured, in memory and on disk. The layers of `under`, the origin of the guest, stay. */
  async discard(done: BranchDone, under: Point): Promise<void> {
    const captured = done.stack.map((layer) => layer.digest).filter((digest) => !under.stack.includes(digest));
    for (const digest of captured) await this.pager.dropLayer(digest);
    for (const digest of [...captured, done.device_state.digest]) await rm(this.blob(digest), { force: true });
  }

  /** The file of a blob of the store. */
  blob(digest: string): string {
    return join(this.dir, 'store/blobs/sha256', digest.replace('sha256:', ''));
  }

  async end(guest: Guest): Promise<void> {
    await guest.agent.close();
    await this.kill(guest.vm);
  }

  async kill(vm: Vm): Promise<void> {
    await vm.kill();
    this.#vms.delete(vm);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#vms].map((vm) => vm.kill()));
    await this.engine.close();
    await this.pager.shutdown();
    await rm(this.dir, { recursive: true, force: true });
  }

  /** Connects to the agent of a running VM. */
  async join(vm: Vm): Promise<Guest> {
    try {
      const wait = {
        vsockPort: vm.agentPort ?? undefined,
        timeoutMs: AGENT_TIMEOUT_MS,
        ...(this.#signal && { signal: this.#signal }),
      };
      return { vm, agent: await GuestAgent.connect(vm.agentSocket, wait) };
    } catch (error) {
      const console = await readFile(join(vm.record.dir, 'console.log'), 'utf8').catch(() => '');
      await vm.kill();
      throw new Error(`the agent did not answer; the console said: ${console.slice(-2000)}`, { cause: error });
    }
  }

  #shape({ machine }: Point): Shape {
    return { machine, rootImage: this.rootImage };
  }

  #spec() {
    this.#serial += 1;
    const id = `vm${this.#serial}`;
    const place = { id, dir: join(this.dir, id), rootImage: this.rootImage, pager: this.pager };
    return { ...place, ...(this.#signal && { signal: this.#signal }) };
  }

  /** Registers the VM, so that the lab ends it even if the test fails. */
  #track(vm: Vm): Vm {
    this.#vms.add(vm);
    return vm;
  }
}

/** Runs a shell script and returns its output. Fails unless the script exits with 0. */
export async function sh(agent: GuestAgent, script: string): Promise<string> {
  const result = await agent.run(['sh', '-c', script]);
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
  if (result.exitCode !== 0) throw new Error(`"${script}" ended with ${result.exitCode}: ${text(result.stderr)}`);
  return text(result.stdout).trim();
}

/** All output of a command that the agent has kept. */
export async function outputOf(agent: GuestAgent, id: string): Promise<string> {
  let text = '';
  for await (const event of await agent.attach(id, { offset: 0, follow: false })) {
    if (event.stream !== 'gap') text += new TextDecoder().decode(event.data);
  }
  return text;
}
