import type { HostInfo } from '@forkd/api';
import { isForkdError, type ForkdError } from '@forkd/sdk';
import { controllerProgram, defaultDataDir } from '@forkd/sdk/local';
import path from 'node:path';
import type { Context } from '../../context.ts';
import { findProgram, runProgram } from './programs.ts';
import { pagerProgram, type NativeProgram } from './native.ts';

export type Controller = { host: HostInfo; place: string } | { host: undefined; error: ForkdError };

/** What `forkd-pager --probe` prints: of each thing why it cannot be had, null where it was tried and works. */
export type KernelProbe = {
  live_unavailable: string | null;
  missing_unavailable: string | null;
  sharing_unavailable: string | null;
  memfd_unavailable: string | null;
  seal_unavailable: string | null;
  pagemap_scan_unavailable: string | null;
  page_list_unavailable: string | null;
};
export type Probed = { probe: KernelProbe } | { probe: undefined; reason: string; pager: NativeProgram };

/** What `forkd-controller probe` prints of the `firecracker` on the PATH. */
export type FirecrackerProbe = {
  version: string;
  shared_memory: boolean;
  vmstate_only: boolean;
  write_protect: boolean;
  jailer: { ok: boolean; detail: string } | null;
};
export type Firecracker = { file: string } & (
  | { probe: FirecrackerProbe; reason?: undefined }
  | { probe: undefined; reason: string }
);

export type Qemu = { file: string | undefined; version: string | undefined; error: string | undefined };

/** A controller has to start, and in it a Firecracker, with its jailer and without. */
const FIRECRACKER_TIMEOUT_MS = 40_000;

/** What several rows need to know. Each is found out once, when it is first asked for; nothing is started that stays. */
export class Facts {
  readonly context: Context;
  #controller: Promise<Controller> | undefined;
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

  /** The controller that runs, if one does: none is started. */
  controller(): Promise<Controller> {
    this.#controller ??= askController(this.context);
    return this.#controller;
  }

  async host(): Promise<HostInfo | undefined> {
    return (await this.controller()).host;
  }

  async dataDir(): Promise<string> {
    const host = await this.host();
    return path.resolve(host?.data_dir ?? this.context.globals.dataDir ?? defaultDataDir(this.env));
  }

  /** The kernel, as the pager finds it by trying. */
  kernel(): Promise<Probed> {
    this.#probed ??= probeKernel(this);
    return this.#probed;
  }

  qemu(): Promise<Qemu> {
    this.#qemu ??= findQemu(this);
    return this.#qemu;
  }

  /** `undefined` where there is none. */
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

async function probeKernel({ env, signal }: Facts): Promise<Probed> {
  const pager = pagerProgram(env);
  const { stdout, stderr, status, error } = await runProgram(pager.file, ['--probe'], { env, signal });
  if (status === 0) return { probe: JSON.parse(stdout) as KernelProbe };
  const said = error ?? (stderr.trim() || `it ended with ${status}`);
  return { probe: undefined, reason: `${pager.file} --probe does not answer: ${said}`, pager };
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

/** The controller knows how to ask one; none is started that stays. */
async function probeFirecracker({ env, signal }: Facts): Promise<Firecracker | undefined> {
  const file = await findProgram('firecracker', env);
  if (file === undefined) return undefined;
  try {
    const controller = controllerProgram(env);
    const { stdout, stderr, status, error } = await runProgram(controller.file, [...controller.args, 'probe'], {
      env,
      signal,
      timeoutMs: FIRECRACKER_TIMEOUT_MS,
    });
    if (status === 0) return { file, probe: JSON.parse(stdout) as FirecrackerProbe };
    const said = error ?? (stderr.trim().replace(/^forkd-controller: /, '') || `it ended with ${status}`);
    return { file, probe: undefined, reason: said };
  } catch (error) {
    if (!isForkdError(error)) throw error;
    return { file, probe: undefined, reason: error.message };
  }
}
