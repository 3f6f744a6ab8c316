import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ensureInitramfs, ensureKernel } from '@forkd/images';
import { ForkdClient } from '@forkd/sdk';
import { Agent, fetch, type RequestInit, type Response } from 'undici';
import { type CheckedConnection, checkedConnection } from './checked-fetch.ts';
import { BUILT, REPO, requireBuilt, TEST_CACHE } from './paths.ts';
import { killIfThere } from './process.ts';
import { builtOnce, copyStore, sharedDir } from './shared.ts';
import { makeTemplate } from './template.ts';

const PROGRAM = join(REPO, 'packages/controller/bundle/forkd-controller.js');
const START_TIMEOUT_MS = 60_000;
/** Delay between two checks of a condition that cannot be awaited. */
const POLL_MS = 20;

/** A process that belongs to a data directory. */
export interface Found {
  pid: number;
  /** `net` is the part of the network process that serves guests, `keeper` the part that keeps their wires. */
  kind: 'controller' | 'pager' | 'disks' | 'vmm' | 'idle' | 'trial' | 'net' | 'keeper';
}

export interface ControllerOptions {
  /** The directory is made if it is missing, and removed at the end. Default: a new one. */
  dir?: string;
  args?: readonly string[];
  /** Variables that override the environment of this process. */
  env?: NodeJS.ProcessEnv;
  /** True if the store has the template `base` from the start. Default: false. */
  template?: boolean;
  /**
   * True if the controller finds the kernel of an earlier template, so that it can try what QEMU's functions do: pauses are then
   * conducted, and device states loaded, inside QEMU. Default: false.
   */
  knowsKernel?: boolean;
}

/** Notes in the shared cache which kernel was booted last. */
async function noteKernel(): Promise<void> {
  const kernel = await ensureKernel({ cacheDir: TEST_CACHE });
  const initramfs = await ensureInitramfs({ cacheDir: TEST_CACHE, kernel, agentBinary: BUILT.agent });
  await writeFile(join(TEST_CACHE, 'guest-boot.json'), JSON.stringify({ vmlinuz: kernel.vmlinuz, initramfs }));
}

/** A real controller with its own data directory. It shares the cache of kernels and images with the whole suite. */
export class TestController implements AsyncDisposable {
  readonly dir: string;
  /** The client fails if a reply does not match the API document. */
  readonly client: ForkdClient;
  /** Log of the controllers of this directory. */
  log = '';
  readonly #connection: CheckedConnection;
  #process: ChildProcess | undefined;
  #agent: Agent | undefined;

  private constructor(dir: string) {
    this.dir = dir;
    this.#connection = checkedConnection(this.socket);
    this.client = new ForkdClient({ socket: this.socket, fetch: this.#connection.fetch });
  }

  static async start(options: ControllerOptions = {}): Promise<TestController> {
    await requireBuilt();
    // The path must be short, because the length of socket paths is limited.
    const dir = options.dir ?? (await mkdtemp('/tmp/fk-'));
    await mkdir(dir, { recursive: true });
    await mkdir(TEST_CACHE, { recursive: true });
    await symlink(TEST_CACHE, join(dir, 'cache'));
    const shared = options.template === true ? sharedDir() : undefined;
    if (shared !== undefined) await copyStore(await storeWithTemplate(shared), join(dir, 'store'));
    if (options.knowsKernel === true) await noteKernel();
    const controller = new TestController(dir);
    await controller.serve(options.args, options.env === undefined ? {} : { env: options.env });
    if (options.template === true && shared === undefined) await makeTemplate(controller.client);
    return controller;
  }

  get socket(): string {
    return join(this.dir, 'run/controller.sock');
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  /** Starts the controller, or restarts it, and waits until it answers. `through` is a program that launches it. */
  async serve(
    args: readonly string[] = [],
    options: { env?: NodeJS.ProcessEnv; through?: readonly string[] } = {},
  ): Promise<void> {
    const { env = {}, through = [] } = options;
    // The controller has no port and no pool of VMMs, unless a test is about them.
    const hasPort = args.includes('--bind');
    const port = hasPort ? [] : ['--no-tcp'];
    const all = [PROGRAM, 'serve', '--data-dir', this.dir, ...port, '--vmm-pool', '0', ...args];
    const [program = '', ...rest] = [...through, process.execPath, ...all];
    const child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    const loggedBefore = this.log.length;
    child.stdout.on('data', (text: Buffer) => (this.log += text.toString()));
    child.stderr.on('data', (text: Buffer) => (this.log += text.toString()));
    this.#process = child;
    await until(
      () => `the controller answers; it said: ${this.log.slice(-4000)}`,
      START_TIMEOUT_MS,
      async () => {
        if (child.exitCode !== null || child.signalCode !== null) {
          throw new Error(`the controller ended with ${child.exitCode ?? child.signalCode}: ${this.log.slice(-4000)}`);
        }
        // The port opens after the socket.
        if (hasPort && !this.log.includes('"address":', loggedBefore)) return false;
        if (args.includes('--e2b') && !this.log.includes('"e2b":', loggedBefore)) return false;
        return this.client.health().then(
          () => true,
          () => false,
        );
      },
    );
  }

  /** Sends a raw request, such as one that the client would not send. */
  fetch(route: string, init: RequestInit = {}): Promise<Response> {
    const dispatcher = (this.#agent ??= new Agent({ connect: { socketPath: this.socket } }));
    return fetch(`http://controller${route}`, { ...init, dispatcher });
  }

  /** The address of the port, as the controller has logged it; for `--bind 127.0.0.1:0`. */
  get url(): string {
    const found = [...this.log.matchAll(/"address":"(https?:[^"]+)"/g)].at(-1)?.[1];
    if (found === undefined) throw new Error('the controller has no port');
    return found;
  }

  /** The address of E2B's wire, as the controller has logged it; for `--e2b 127.0.0.1:0`. */
  get e2bUrl(): string {
    const found = [...this.log.matchAll(/"e2b":"(https?:[^"]+)"/g)].at(-1)?.[1];
    if (found === undefined) throw new Error("the controller does not serve E2B's wire");
    return found;
  }

  signal(name: NodeJS.Signals): void {
    this.#process?.kill(name);
  }

  /** Waits for the end of the controller, and returns its exit code or signal. */
  async ended(): Promise<number | NodeJS.Signals | null> {
    const child = this.#process;
    if (!child) return null;
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    return child.exitCode ?? child.signalCode;
  }

  /** Kills the controller as a power cut would, and waits for its end. */
  async kill9(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    for (const pid of await this.pids('controller')) killIfThere(pid);
    await ended;
  }

  /** Ends the controller in order, if it is running. Its sandboxes keep running. */
  async stop(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    await this.client.shutdown();
    await ended;
  }

  /** Kills the only process of a kind, as a power cut would. */
  async killOnly(kind: Found['kind']): Promise<void> {
    const [pid, ...others] = await this.pids(kind);
    if (pid === undefined || others.length > 0)
      throw new Error(`there are ${others.length + (pid ? 1 : 0)} of ${kind}`);
    process.kill(pid, 'SIGKILL');
  }

  /** The processes that belong to this data directory, including the controller. */
  async processes(): Promise<Found[]> {
    const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
    const found = await Promise.all(pids.map((pid) => this.#look(pid)));
    return found.filter((entry) => entry !== null);
  }

  async pids(kind: Found['kind']): Promise<number[]> {
    return (await this.processes()).filter((found) => found.kind === kind).map((found) => found.pid);
  }

  /** Number of layer memfds that the pager has open. */
  async heldLayers(): Promise<number> {
    const [pager] = await this.pids('pager');
    if (pager === undefined) return 0;
    const fds = await readdir(`/proc/${pager}/fd`);
    const targets = await Promise.all(fds.map((fd) => readlink(`/proc/${pager}/fd/${fd}`).catch(() => '')));
    return targets.filter((target) => target.startsWith('/memfd:forkd-')).length;
  }

  /** Names of the entries left in the directory of sandboxes. */
  sandboxDirs(): Promise<string[]> {
    return readdir(join(this.dir, 'sandboxes')).catch(() => []);
  }

  /** Names of the files left over from interrupted writes. */
  ingested(): Promise<string[]> {
    return readdir(join(this.dir, 'store/ingest')).catch(() => []);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#process;
    if (child && child.exitCode === null && child.signalCode === null) {
      const ended = once(child, 'exit');
      await this.client.shutdown({ sandboxes: 'kill' }).catch(() => child.kill('SIGKILL'));
      await ended;
    }
    await this.#connection.close();
    await this.#agent?.close();
    // End processes that a test has left, on purpose or by failing.
    for (const { pid } of await this.processes()) killIfThere(pid);
    await until('all processes have ended', START_TIMEOUT_MS, async () => (await this.processes()).length === 0);
    await rm(this.dir, { recursive: true, force: true });
  }

  async #look(pid: number): Promise<Found | null> {
    try {
      const line = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
      const [program = '', script = ''] = line;
      if (line.includes(join(this.dir, 'run')) && program.endsWith('forkd-pager')) return { pid, kind: 'pager' };
      if (line.includes(join(this.dir, 'run')) && program.endsWith('forkd-disk')) return { pid, kind: 'disks' };
      if (line.includes(join(this.dir, 'run')) && program.endsWith('forkd-net')) return { pid, kind: 'keeper' };
      if ((await readlink(`/proc/${pid}/root`)) === join(this.dir, 'run/net-root')) return { pid, kind: 'net' };
      if (script === PROGRAM && line.includes(this.dir)) return { pid, kind: 'controller' };
      // The only host paths that a VMM shows are those of the files that it inherited.
      const log = await readlink(`/proc/${pid}/fd/1`);
      if (log.startsWith(`${this.dir}/pool/`)) return { pid, kind: 'idle' };
      if (log.startsWith(`${this.dir}/firecracker/`)) return { pid, kind: 'trial' };
      return log.startsWith(`${this.dir}/sandboxes/`) ? { pid, kind: 'vmm' } : null;
    } catch {
      // The process has ended meanwhile, or only the kernel may read its details.
      return null;
    }
  }
}

/** A store with the template `base`, which the files of a test run share. */
function storeWithTemplate(shared: string): Promise<string> {
  return builtOnce(join(shared, 'store'), async (draft) => {
    await using controller = await TestController.start();
    await makeTemplate(controller.client);
    await controller.stop();
    await copyStore(join(controller.dir, 'store'), draft);
  });
}

/** Waits until `condition` holds; fails with `what` when it does not within `timeoutMs`. */
export async function until(
  what: string | (() => string),
  timeoutMs: number,
  condition: () => Promise<boolean>,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) {
      throw new Error(`not within ${timeoutMs} ms: ${typeof what === 'string' ? what : what()}`);
    }
    await delay(POLL_MS);
  }
}
