import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { REPO, requireBuilt, TEST_CACHE } from '@forkd/lab';
import { ForkdClient } from '@forkd/sdk';
import { type CheckedConnection, checkedConnection } from './checked-fetch.ts';
import { Agent, fetch, type RequestInit, type Response } from 'undici';

const PROGRAM = path.join(REPO, 'packages/controller/dist/main.js');
const START_TIMEOUT_MS = 20_000;
/** Between two looks at something that cannot be waited for. */
const POLL_MS = 20;

/** A process that has to do with a data directory. */
export interface Found {
  pid: number;
  kind: 'controller' | 'pager' | 'vmm' | 'idle' | 'trial';
}

/** A real controller with a data directory of its own, which shares the suite's cache of kernels and images. */
export class TestController implements AsyncDisposable {
  readonly dir: string;
  /** Fails where a reply is not what the API document says. */
  readonly client: ForkdClient;
  /** What the controllers of this directory have logged. */
  log = '';
  readonly #connection: CheckedConnection;
  #process: ChildProcess | undefined;
  #agent: Agent | undefined;

  private constructor(dir: string) {
    this.dir = dir;
    this.#connection = checkedConnection(this.socket);
    this.client = new ForkdClient({ socket: this.socket, fetch: this.#connection.fetch });
  }

  /** `dir` is made if it is missing; it is removed at the end either way. `env` goes over this process's own. */
  static async start(
    options: { dir?: string; args?: readonly string[]; env?: NodeJS.ProcessEnv } = {},
  ): Promise<TestController> {
    await requireBuilt();
    // Short, because the sockets' paths may not be long.
    const dir = options.dir ?? (await mkdtemp('/tmp/fk-'));
    await mkdir(dir, { recursive: true });
    await mkdir(TEST_CACHE, { recursive: true });
    await symlink(TEST_CACHE, path.join(dir, 'cache'));
    const controller = new TestController(dir);
    await controller.serve(options.args, options.env === undefined ? {} : { env: options.env });
    return controller;
  }

  get socket(): string {
    return path.join(this.dir, 'run/controller.sock');
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  /** Starts the controller, again if need be, and waits until it answers. `through` is a program that starts it in turn. */
  async serve(
    args: readonly string[] = [],
    options: { env?: NodeJS.ProcessEnv; through?: readonly string[] } = {},
  ): Promise<void> {
    const { env = {}, through = [] } = options;
    // Without a port and without VMMs that start by themselves, unless a test is about them.
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
        // The port comes after the socket.
        if (hasPort && !this.log.includes('"address":', loggedBefore)) return false;
        return this.client.health().then(
          () => true,
          () => false,
        );
      },
    );
  }

  /** A request as it is, for what the client would not send. */
  fetch(route: string, init: RequestInit = {}): Promise<Response> {
    const dispatcher = (this.#agent ??= new Agent({ connect: { socketPath: this.socket } }));
    return fetch(`http://controller${route}`, { ...init, dispatcher });
  }

  /** The address of its port, with `--bind 127.0.0.1:0`, as it has logged it. */
  get url(): string {
    const found = [...this.log.matchAll(/"address":"(https?:[^"]+)"/g)].at(-1)?.[1];
    if (found === undefined) throw new Error('the controller has no port');
    return found;
  }

  /** Sends it a signal. */
  signal(name: NodeJS.Signals): void {
    this.#process?.kill(name);
  }

  /** How it ended, once it has. */
  async ended(): Promise<number | NodeJS.Signals | null> {
    const child = this.#process;
    if (!child) return null;
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    return child.exitCode ?? child.signalCode;
  }

  /** Ends the controller as a power cut would, and waits for its end. */
  async kill9(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    for (const pid of await this.pids('controller')) process.kill(pid, 'SIGKILL');
    await ended;
  }

  /** Ends the controller in order, if it runs. Its sandboxes run on. */
  async stop(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    await this.client.shutdown();
    await ended;
  }

  /** Ends the only process of a kind as a power cut would. */
  async killOnly(kind: Found['kind']): Promise<void> {
    const [pid, ...others] = await this.pids(kind);
    if (pid === undefined || others.length > 0)
      throw new Error(`there are ${others.length + (pid ? 1 : 0)} of ${kind}`);
    process.kill(pid, 'SIGKILL');
  }

  /** The processes that have to do with this data directory, the controller's among them. */
  async processes(): Promise<Found[]> {
    const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
    const found = await Promise.all(pids.map((pid) => this.#look(pid)));
    return found.filter((entry) => entry !== null);
  }

  /** The pids of one kind. */
  async pids(kind: Found['kind']): Promise<number[]> {
    return (await this.processes()).filter((found) => found.kind === kind).map((found) => found.pid);
  }

  /** How many memfds of layers the pager has open. */
  async heldLayers(): Promise<number> {
    const [pager] = await this.pids('pager');
    if (pager === undefined) return 0;
    const fds = await readdir(`/proc/${pager}/fd`);
    const targets = await Promise.all(fds.map((fd) => readlink(`/proc/${pager}/fd/${fd}`).catch(() => '')));
    return targets.filter((target) => target.startsWith('/memfd:forkd-')).length;
  }

  /** Names of what is left in the directory of sandboxes. */
  sandboxDirs(): Promise<string[]> {
    return readdir(path.join(this.dir, 'sandboxes')).catch(() => []);
  }

  /** Names of what is left of files that were being written. */
  ingested(): Promise<string[]> {
    return readdir(path.join(this.dir, 'store/ingest')).catch(() => []);
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
    // What a test has left on purpose, or by failing.
    for (const { pid } of await this.processes()) process.kill(pid, 'SIGKILL');
    await until('all processes have ended', START_TIMEOUT_MS, async () => (await this.processes()).length === 0);
    await rm(this.dir, { recursive: true, force: true });
  }

  async #look(pid: number): Promise<Found | null> {
    try {
      const line = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
      const [program = '', script = ''] = line;
      if (line.includes(path.join(this.dir, 'run')) && program.endsWith('forkd-pager')) return { pid, kind: 'pager' };
      if (script === PROGRAM && line.includes(this.dir)) return { pid, kind: 'controller' };
      // A VMM has no path of the host's but those of what it was left open.
      const log = await readlink(`/proc/${pid}/fd/1`);
      if (log.startsWith(`${this.dir}/pool/`)) return { pid, kind: 'idle' };
      if (log.startsWith(`${this.dir}/firecracker/`)) return { pid, kind: 'trial' };
      return log.startsWith(`${this.dir}/sandboxes/`) ? { pid, kind: 'vmm' } : null;
    } catch {
      // It has ended while it was looked at, or its details are the kernel's alone.
      return null;
    }
  }
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
