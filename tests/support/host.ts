import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
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

/** A pager and an engine of a test's own, in a directory of its own, without a controller. */
export class TestHost implements AsyncDisposable {
  readonly pager: Pager;
  readonly engine: QemuEngine;
  readonly dir: string;
  readonly #rootImage: string;
  readonly #kernel: { vmlinuz: string; initramfs: string };
  readonly #guests = new Set<Guest>();
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
    this.#rootImage = rootImage;
    this.#kernel = kernel;
  }

  static async start(): Promise<TestHost> {
    await requireBuilt();
    const kernel = await ensureKernel({ cacheDir: TEST_CACHE });
    const initramfs = await ensureInitramfs({ cacheDir: TEST_CACHE, kernel, agentBinary: BUILT.agent });
    const root = await buildRoot({ source: 'busybox', cacheDir: TEST_CACHE });
    // Short, because the sockets' paths may not be long.
    const dir = await mkdtemp('/tmp/fk-');
    const pager = await Pager.ensure({ bin: BUILT.pager, runDir: join(dir, 'run'), storeDir: join(dir, 'store') });
    const engine = await QemuEngine.create({ cacheDir: TEST_CACHE, shim: BUILT.shim, pager });
    return new TestHost(dir, pager, engine, root.erofs, { vmlinuz: kernel.vmlinuz, initramfs });
  }

  /** Boots a guest, lets `warm` prepare it, and takes a template of it. */
  async template(warm: (agent: GuestAgent) => Promise<void> = async () => {}): Promise<Point> {
    const id = this.#nextId();
    const spec = { id, dir: join(this.dir, id), rootImage: this.#rootImage, pager: this.pager };
    const vm = await this.engine.boot({ ...spec, memMib: MEM_MIB, vcpus: 1, kernel: this.#kernel });
    const guest = await this.#join(vm);
    await warm(guest.agent);
    const done = await this.branch(guest, { mode: 'diff', resume: false });
    await this.end(guest);
    return this.point(guest, done);
  }

  /** Starts a guest from a point, and gives it an identity of its own. */
  async fork(point: Point): Promise<Guest> {
    const id = this.#nextId();
    const spec = { id, dir: join(this.dir, id), rootImage: this.#rootImage, pager: this.pager };
    const guest = await this.#join(await this.engine.restore({ ...spec, ...point }));
    await guest.agent.identify({
      entropy: randomBytes(64),
      wallClockUnixNs: BigInt(Date.now()) * 1_000_000n,
      hostname: id,
      machineId: randomUUID().replaceAll('-', ''),
    });
    return guest;
  }

  branch(guest: Guest, request: Partial<Branch> = {}): Promise<BranchDone> {
    return this.pager.branch({ sandbox: guest.vm.record.id, mode: 'live', resume: true, audit: false, ...request });
  }

  /** Where a branch of `guest` can be started from. */
  point(guest: Guest, done: BranchDone): Point {
    const blob = (digest: string): string => join(this.dir, 'store/blobs/sha256', digest.replace('sha256:', ''));
    return {
      machine: guest.vm.record.machine,
      stack: done.stack.map((layer) => layer.digest),
      deviceState: blob(done.device_state.digest),
    };
  }

  async end(guest: Guest): Promise<void> {
    this.#guests.delete(guest);
    await guest.agent.close();
    await guest.vm.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const guest of this.#guests) await this.end(guest);
    await this.pager.shutdown();
    await rm(this.dir, { recursive: true, force: true });
  }

  async #join(vm: Vm): Promise<Guest> {
    try {
      const guest = { vm, agent: await GuestAgent.connect(vm.agentSocket, { timeoutMs: AGENT_TIMEOUT_MS }) };
      this.#guests.add(guest);
      return guest;
    } catch (error) {
      const console = await readFile(join(vm.record.dir, 'console.log'), 'utf8').catch(() => '');
      await vm.kill();
      throw new Error(`the agent did not answer; the console said: ${console.slice(-2000)}`, { cause: error });
    }
  }

  #nextId(): string {
    this.#serial += 1;
    return `vm${this.#serial}`;
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
