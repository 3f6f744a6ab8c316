import { mkdtemp, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { randomBytes, randomUUID } from 'node:crypto';
import { Pager, QemuEngine, type Branch, type BranchDone, type Machine, type Vm } from '@forkd/engine';
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

const MEM_MIB = 256;
const AGENT_TIMEOUT_MS = 60_000;

/** A pager and an engine of one's own, in a directory of its own, without a controller. */
export class Lab implements AsyncDisposable {
  readonly pager: Pager;
  readonly engine: QemuEngine;
  readonly dir: string;
  /** The read-only root that all its guests share. */
  readonly rootImage: string;
  readonly #kernel: { vmlinuz: string; initramfs: string };
  readonly #vms = new Set<Vm>();
  #serial = 0;

  private constructor(
    dir: string,
    pager: Pager,
    engine: QemuEngine,
    rootImage: string,
    kernel: { vmlinuz: string; initramfs: string },
  ) {
    this.dir = dir;
    this.pager = pager;
    this.engine = engine;
    this.rootImage = rootImage;
    this.#kernel = kernel;
  }

  static async start(): Promise<Lab> {
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
    const engine = await QemuEngine.create({ cacheDir: TEST_CACHE, shim: BUILT.shim, pager });
    return new Lab(dir, pager, engine, root.erofs, { vmlinuz: kernel.vmlinuz, initramfs });
  }

  /** Boots a guest, lets `warm` prepare it, and takes a template of it. */
  async template(warm: (agent: GuestAgent) => Promise<void> = async () => {}): Promise<Point> {
    const vm = await this.engine.boot({ ...this.#spec(), memMib: MEM_MIB, vcpus: 1, kernel: this.#kernel });
    this.#track(vm);
    const guest = await this.join(vm);
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
  async restore(point: Point): Promise<Vm> {
    return this.#track(await this.engine.restore({ ...this.#spec(), ...point }));
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

  /** The file of a blob of the store. */
  blob(digest: string): string {
    return path.join(this.dir, 'store/blobs/sha256', digest.replace('sha256:', ''));
  }

  async end(guest: Guest): Promise<void> {
    await guest.agent.close();
    await guest.vm.kill();
    this.#vms.delete(guest.vm);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#vms].map((vm) => vm.kill()));
    await this.pager.shutdown();
    await rm(this.dir, { recursive: true, force: true });
  }

  /** Connects to the agent of a VM that runs. */
  async join(vm: Vm): Promise<Guest> {
    try {
      return { vm, agent: await GuestAgent.connect(vm.agentSocket, { timeoutMs: AGENT_TIMEOUT_MS }) };
    } catch (error) {
      const console = await readFile(path.join(vm.record.dir, 'console.log'), 'utf8').catch(() => '');
      await vm.kill();
      throw new Error(`the agent did not answer; the console said: ${console.slice(-2000)}`, { cause: error });
    }
  }

  #spec() {
    this.#serial += 1;
    const id = `vm${this.#serial}`;
    return { id, dir: path.join(this.dir, id), rootImage: this.rootImage, pager: this.pager };
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
