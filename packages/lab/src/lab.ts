import { setMaxListeners } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { randomBytes, randomUUID } from 'node:crypto';
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
} from '@forkd/engine';
import { GuestAgent } from '@forkd/guest';
import { buildRoot, ensureInitramfs, ensureKernel } from '@forkd/images';
import { BUILT, requireBuilt, TEST_CACHE } from './paths.ts';

/** What a VM can be started from. */
export interface Point {
  machine: Machine;
  stack: readonly string[];
  deviceState: string;
}

/** A VM that runs, and its agent. */
export interface Guest {
  vm: Vm;
  agent: GuestAgent;
}

/** What a guest of a lab is made of. */
export interface BootOptions {
  /** Default 256. */
  memMib?: number;
  /** Default 1. */
  vcpus?: number;
}

export interface LabOptions {
  /** Gives up what is being started. */
  signal?: AbortSignal | undefined;
  /** VMMs that may wait for a restore, once {@link Lab.fill} has been called. Default none. */
  poolMax?: number;
}

const MEM_MIB_DEFAULT = 256;
const AGENT_TIMEOUT_MS = 60_000;

/** A pager and an engine of one's own, in a directory of its own, without a controller. */
export class Lab implements AsyncDisposable {
  readonly pager: Pager;
  readonly engine: QemuEngine;
  readonly dir: string;
  /** The read-only root that all its guests share. */
  readonly rootImage: string;
  readonly #kernel: KernelFiles;
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
    this.#kernel = parts.kernel;
    this.#signal = parts.signal;
  }

  static async start({ signal, poolMax = 0 }: LabOptions = {}): Promise<Lab> {
    // Each VM that is being started listens to it, and there may be many at the same time.
    if (signal) setMaxListeners(0, signal);
    await requireBuilt();
    const kernel = await ensureKernel({ cacheDir: TEST_CACHE });
    const initramfs = await ensureInitramfs({ cacheDir: TEST_CACHE, kernel, agentBinary: BUILT.agent });
    const root = await buildRoot({ source: 'busybox', cacheDir: TEST_CACHE });
    // Short, because the sockets' paths may not be long.
    const dir = await mkdtemp('/tmp/fk-');
    const pager = await Pager.ensure({
      bin: BUILT.pager,
      runDir: path.join(dir, 'run'),
      storeDir: path.join(dir, 'store'),
    });
    const binaries = { shim: BUILT.shim, jail: BUILT.jail };
    const pool = { dir: path.join(dir, 'pool'), sizeMax: poolMax };
    const engine = await QemuEngine.create({ cacheDir: TEST_CACHE, ...binaries, pager, pool });
    const files = { vmlinuz: kernel.vmlinuz, initramfs };
    return new Lab({ dir, pager, engine, rootImage: root.erofs, kernel: files, signal });
  }

  /** Boots a guest from nothing; resolves when its agent answers. */
  async boot({ memMib = MEM_MIB_DEFAULT, vcpus = 1 }: BootOptions = {}): Promise<Guest> {
    const vm = await this.engine.boot({ ...this.#spec(), memMib, vcpus, kernel: this.#kernel });
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

  /** Starts a guest from a point, and gives it an identity of its own. */
  async fork(point: Point): Promise<Guest> {
    const guest = await this.join(await this.restore(point));
    await this.identify(guest);
    return guest;
  }

  /** Starts a VM from a point; resolves when it runs. */
  async restore(point: Point, limit: Pick<RestoreSpec, 'memoryLimitMib'> = {}): Promise<Vm> {
    return this.#track(await this.engine.restore({ ...this.#spec(), ...point, ...limit }));
  }

  /** Resolves when so many VMMs wait for a restore from `point`, as far as `poolMax` allows. */
  fill(point: Point, count: number): Promise<void> {
    return this.engine.fill(this.#shape(point), this.pager, count);
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

  /** Where a branch of `guest` can be started from. */
  point(guest: Guest, done: BranchDone): Point {
    return {
      machine: guest.vm.record.machine,
      stack: done.stack.map((layer) => layer.digest),
      deviceState: this.blob(done.device_state.digest),
    };
  }

  /** Forgets what a branch has captured, in memory and on disk; `under` is what the guest was started from, and stays. */
  async discard(done: BranchDone, under: Point): Promise<void> {
    const captured = done.stack.map((layer) => layer.digest).filter((digest) => !under.stack.includes(digest));
    for (const digest of captured) await this.pager.dropLayer(digest);
    for (const digest of [...captured, done.device_state.digest]) await rm(this.blob(digest), { force: true });
  }

  /** The file of a blob of the store. */
  blob(digest: string): string {
    return path.join(this.dir, 'store/blobs/sha256', digest.replace('sha256:', ''));
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

  /** Connects to the agent of a VM that runs. */
  async join(vm: Vm): Promise<Guest> {
    try {
      const wait = {
        vsockPort: vm.agentPort ?? undefined,
        timeoutMs: AGENT_TIMEOUT_MS,
        ...(this.#signal && { signal: this.#signal }),
      };
      return { vm, agent: await GuestAgent.connect(vm.agentSocket, wait) };
    } catch (error) {
      const console = await readFile(path.join(vm.record.dir, 'console.log'), 'utf8').catch(() => '');
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
    const place = { id, dir: path.join(this.dir, id), rootImage: this.rootImage, pager: this.pager };
    return { ...place, ...(this.#signal && { signal: this.#signal }) };
  }

  /** What runs is ended with the host, whatever became of the test. */
  #track(vm: Vm): Vm {
    this.#vms.add(vm);
    return vm;
  }
}

/** The text that a command printed; fails when it did not end with 0. */
export async function sh(agent: GuestAgent, script: string): Promise<string> {
  const result = await agent.run(['sh', '-c', script]);
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
  if (result.exitCode !== 0) throw new Error(`"${script}" ended with ${result.exitCode}: ${text(result.stderr)}`);
  return text(result.stdout).trim();
}

/** All that the agent has kept of a command's output. */
export async function outputOf(agent: GuestAgent, id: string): Promise<string> {
  let text = '';
  for await (const event of await agent.attach(id, { offset: 0, follow: false })) {
    if (event.stream !== 'gap') text += new TextDecoder().decode(event.data);
  }
  return text;
}
