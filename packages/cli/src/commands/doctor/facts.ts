import { resolve } from 'node:path';
import type { HostInfo, SnapshotInfo } from '@forkd/api';
import { isForkdError, type ForkdError } from '@forkd/sdk';
import { controllerProgram, defaultDataDir } from '@forkd/sdk/local';
import type { Context } from '../../context.ts';
import { findProgram, runProgram } from './programs.ts';
import { command, type Fix } from './row.ts';

export type Controller = { host: HostInfo; place: string } | { host: undefined; error: ForkdError };

/** The output of `forkd-pager --probe`: for each feature why it is unavailable, or null if it was tried and works. */
export interface KernelProbe {
  live_unavailable: string | null;
  missing_unavailable: string | null;
  sharing_unavailable: string | null;
  memfd_unavailable: string | null;
  seal_unavailable: string | null;
  pagemap_scan_unavailable: string | null;
  page_list_unavailable: string | null;
}
export type Probed = { probe: KernelProbe } | { probe: undefined; reason: string; fix: Fix | null };

/** A native program in the output of `forkd-controller probe programs`. */
export interface NativeProgram {
  file: string;
  /** The environment variable that names another file. */
  variable: string;
  /** The checkout that builds the file, if one does. */
  checkout: string | null;
}
export type Natives = Record<'pager' | 'shim' | 'jail' | 'agent', NativeProgram>;

/** The output of `forkd-controller probe` about the `firecracker` on the PATH. */
export interface FirecrackerProbe {
  version: string;
  shared_memory: boolean;
  vmstate_only: boolean;
  write_protect: boolean;
  /** True if a trial VM was branched live, else the reason, as a sentence. */
  live: true | string;
  jailer: { ok: boolean; detail: string } | null;
}
export type Firecracker = { file: string } & (
  | { probe: FirecrackerProbe; reason?: undefined }
  | { probe: undefined; reason: string }
);

/** The output of `forkd-controller probe accelerator`. */
export interface AcceleratorProbe {
  accelerator: string;
  cpu_model: string;
  reason: string;
}

export interface Qemu {
  file: string | undefined;
  version: string | undefined;
  error: string | undefined;
}

/** Time for a controller to start, and for its trial VMMs: Firecracker with and without jailer, or QEMU per CPU model. */
const PROBE_TIMEOUT_MS = 40_000;

const LOOPBACK = /^(localhost|127\.[\d.]+|\[::1\])$/;

/** Facts that several rows need. Each is determined once, on first use. No process that is started for it stays. */
export class Facts {
  readonly context: Context;
  #controller: Promise<Controller> | undefined;
  #natives: Promise<Natives | { said: string }> | undefined;
  #probed: Promise<Probed> | undefined;
  #qemu: Promise<Qemu> | undefined;
  #firecracker: Promise<Firecracker | undefined> | undefined;

  constructor(context: Context) {
    this.context = context;
  }

  get env(): NodeJS.ProcessEnv {
    return this.context.env;
  }

  get signal(): AbortSignal {
    return this.context.signal;
  }

  /** The running controller, if any. None is started. */
  controller(): Promise<Controller> {
    this.#controller ??= askController(this.context);
    return this.#controller;
  }

  /** The snapshots of the running controller; `undefined` if none runs. */
  async snapshots(): Promise<SnapshotInfo[] | undefined> {
    if ((await this.host()) === undefined) return undefined;
    const client = await this.context.runningClient();
    return client.listSnapshots({ signal: this.signal });
  }

  async host(): Promise<HostInfo | undefined> {
    return (await this.controller()).host;
  }

  /** True if the running controller may be on another machine, whose files and tools this command cannot see. */
  async isElsewhere(): Promise<boolean> {
    const { remoteUrl } = this.context;
    if (remoteUrl === undefined || (await this.host()) === undefined || remoteUrl.startsWith('unix:')) return false;
    return !LOOPBACK.test(new URL(remoteUrl).hostname);
  }

  async dataDir(): Promise<string> {
    const host = await this.host();
    return resolve(host?.data_dir ?? this.context.globals.dataDir ?? defaultDataDir(this.env));
  }

  /** The native programs, as the controller's program finds them, or what that program said instead. */
  natives(): Promise<Natives | { said: string }> {
    this.#natives ??= askForNatives(this);
    return this.#natives;
  }

  /** Kernel features, as the pager finds them by trying. */
  kernel(): Promise<Probed> {
    this.#probed ??= probeKernel(this);
    return this.#probed;
  }

  qemu(): Promise<Qemu> {
    this.#qemu ??= findQemu(this);
    return this.#qemu;
  }

  /** The Firecracker on the PATH; `undefined` if there is none. */
  firecracker(): Promise<Firecracker | undefined> {
    this.#firecracker ??= probeFirecracker(this);
    return this.#firecracker;
  }
}

async function askController(context: Context): Promise<Controller> {
  try {
    const client = await context.runningClient();
    return { host: await client.host({ signal: context.signal }), place: client.place };
  } catch (error) {
    context.signal.throwIfAborted();
    if (!isForkdError(error)) throw error;
    return { host: undefined, error };
  }
}

/** The command that builds a program, if a checkout does. */
export function buildOf({ checkout }: NativeProgram): Fix | null {
  return checkout === null ? null : command('npm', '--prefix', checkout, 'run', 'build');
}

async function askForNatives({ env, signal }: Facts): Promise<Natives | { said: string }> {
  const answer = await askProgram(['probe', 'programs'], env, signal);
  return 'said' in answer ? answer : (JSON.parse(answer.stdout) as Natives);
}

async function probeKernel(facts: Facts): Promise<Probed> {
  const { env, signal } = facts;
  const natives = await facts.natives();
  if ('said' in natives) return { probe: undefined, reason: unanswered(natives), fix: null };
  const { pager } = natives;
  const { stdout, stderr, status, error } = await runProgram(pager.file, ['--probe'], { env, signal });
  if (status === 0) return { probe: JSON.parse(stdout) as KernelProbe };
  const said = error ?? (stderr.trim() || `it ended with ${status}`);
  return { probe: undefined, reason: `${pager.file} --probe does not answer: ${said}`, fix: buildOf(pager) };
}

async function findQemu({ env, signal }: Facts): Promise<Qemu> {
  const file = await findProgram('qemu-system-x86_64', env);
  if (file === undefined) return { file, version: undefined, error: undefined };
  const { stdout, stderr, status, error } = await runProgram(file, ['--version'], { env, signal });
  if (status !== 0) {
    return { file, version: undefined, error: error ?? (stderr.trim() || `it ended with ${status}`) };
  }
  return { file, version: /version (\d+(?:\.\d+)+)/.exec(stdout)?.[1], error: undefined };
}

async function probeFirecracker({ env, signal }: Facts): Promise<Firecracker | undefined> {
  const file = await findProgram('firecracker', env);
  if (file === undefined) return undefined;
  const answer = await askProgram(['probe'], env, signal);
  return 'said' in answer
    ? { file, probe: undefined, reason: answer.said }
    : { file, probe: JSON.parse(answer.stdout) as FirecrackerProbe };
}

export function unanswered({ said }: { said: string }): string {
  return `the controller's program does not answer: ${said}`;
}

/** Runs a probe of the controller's program, which exits afterwards. Returns its output, or its error message. */
export async function askProgram(
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
): Promise<{ stdout: string } | { said: string }> {
  try {
    const controller = controllerProgram(env);
    const options = { env, signal, timeoutMs: PROBE_TIMEOUT_MS };
    const { stdout, stderr, status, error } = await runProgram(controller.file, [...controller.args, ...args], options);
    if (status === 0) return { stdout };
    return { said: error ?? (stderr.trim().replace(/^forkd-controller: /, '') || `it ended with ${status}`) };
  } catch (error) {
    if (!isForkdError(error)) throw error;
    return { said: error.message };
  }
}
