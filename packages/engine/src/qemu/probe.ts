import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { EngineError } from '../errors.ts';
import type { Accelerator, KernelFiles } from '../types.ts';
import { EMULATED_MODEL, MACHINE } from './arguments.ts';
import { chooseKvmModel, refusals } from './kvm-model.ts';
import { runTrial } from './trial.ts';

/** The full build; it has every accelerator. */
export const PROGRAM = 'qemu-system-x86_64';

/** A kernel that runs under KVM prints its first line well within this time; one that hangs never does. */
const TRIAL_TIMEOUT_MS = 4_000;

const VERSION_TIMEOUT_MS = 10_000;

/** The first words that a Linux kernel prints. */
const SIGN_OF_LIFE = 'Linux version';

/** How the instructions of guests are run, on what processor, and why. */
export interface Acceleration {
  accelerator: Accelerator;
  cpuModel: string;
  /** Sentences for people. */
  reason: string;
}

interface Trial {
  program: string;
  version: string;
  /** The directory that notes, until the host is booted again, that KVM runs a kernel on it. */
  cacheDir: string;
  probeKernel?: KernelFiles;
  signal?: AbortSignal;
}

/** The outcome of running a kernel under KVM. */
export interface KvmTrial {
  runs: boolean;
  /** The processor model that it ran with. */
  model: string;
  /** Why it did not run, or why the model is not the first choice, as sentences. May be empty where it ran. */
  reason: string;
}

/** The version that `program` prints, such as `7.2.22`. */
export async function readVersion(program: string, signal?: AbortSignal): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(program, ['--version'], {
      timeout: VERSION_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      ...(signal && { signal }),
    });
    const version = /version (\d+(?:\.\d+)+)/.exec(stdout)?.[1];
    if (version !== undefined) return version;
    throw new Error(`it printed ${JSON.stringify(stdout.slice(0, 200))}`);
  } catch (cause) {
    signal?.throwIfAborted();
    throw new EngineError('engine_missing', `${program} does not tell its version.`, {
      hint: 'Install it with `apt-get install qemu-system-x86`.',
      cause,
    });
  }
}

/** Tests how the QEMU on the PATH runs guests. Throws `engine_missing` if there is no QEMU. */
export async function probeAcceleration(
  host: Pick<Trial, 'cacheDir' | 'probeKernel' | 'signal'>,
): Promise<Acceleration> {
  return chooseAcceleration({ ...host, program: PROGRAM, version: await readVersion(PROGRAM, host.signal) });
}

/** KVM where it really runs a guest, else emulation. `/dev/kvm` alone proves nothing: it may be there and run no kernel. */
export async function chooseAcceleration(trial: Trial): Promise<Acceleration> {
  const tcg = (reason: string): Acceleration => ({ accelerator: 'tcg', cpuModel: EMULATED_MODEL, reason });
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return tcg('/dev/kvm cannot be opened, so guests are emulated.');
  }
  if (!/^flags\s*:.*\b(vmx|svm)\b/m.test(await readFile('/proc/cpuinfo', 'utf8'))) {
    return tcg(
      '/dev/kvm is there, but the processor offers no virtualization (no vmx or svm), so guests are emulated.',
    );
  }
  const kvm = (cpuModel: string, reason: string): Acceleration => ({ accelerator: 'kvm', cpuModel, reason });
  const { program, probeKernel, signal } = trial;
  if (!probeKernel) {
    const chosen = await chooseKvmModel(program, signal);
    const why = refusals(chosen);
    return chosen.model === null
      ? tcg(`QEMU starts no processor under KVM, so guests are emulated.${why}`)
      : kvm(chosen.model, `The processor offers virtualization.${why}`);
  }
  const { runs, model, reason } = await remembered(trial, probeKernel);
  return runs ? kvm(model, `KVM ran a kernel.${reason}`) : tcg(`Guests are emulated. ${reason}`);
}

/** KVM because the caller says so. Throws `engine_missing` when QEMU starts no processor under it. */
export async function requireKvm(program: string, signal?: AbortSignal): Promise<Acceleration> {
  const chosen = await chooseKvmModel(program, signal);
  if (chosen.model !== null) {
    return { accelerator: 'kvm', cpuModel: chosen.model, reason: `It was asked for.${refusals(chosen)}` };
  }
  throw new EngineError('engine_missing', `${program} starts no processor under KVM.`, {
    hint: refusals(chosen).trim(),
  });
}

/**
 * The trial's outcome. A success is cached until the host is booted again. A failure is not: the next start may find the host
 * less busy, or mended.
 */
async function remembered(trial: Trial, kernel: KernelFiles): Promise<KvmTrial> {
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const path = join(trial.cacheDir, `kvm-runs-${trial.version}-${boot}`);
  const known = await readFile(path, 'utf8').catch(() => undefined);
  if (known !== undefined) {
    const [model = '', ...reason] = known.split('\n');
    return { runs: true, model, reason: reason.join('') };
  }
  const outcome = await tryKvm(trial.program, kernel, trial.signal);
  // If the note cannot be written, the next start tests again. A caller that only asks may have no such directory, or no right
  // to write there.
  if (outcome.runs) await writeFile(path, `${outcome.model}\n${outcome.reason}`).catch(() => undefined);
  return outcome;
}

/** Runs a kernel under KVM, with the processor model that sandboxes get, until it shows a sign of life. */
export async function tryKvm(program: string, kernel: KernelFiles, signal?: AbortSignal): Promise<KvmTrial> {
  const chosen = await chooseKvmModel(program, signal);
  const why = refusals(chosen);
  const { model } = chosen;
  if (model === null) return { runs: false, model: '', reason: `QEMU starts no processor under KVM.${why}` };
  const args = [
    ['-M', MACHINE],
    ['-accel', 'kvm'],
    ['-cpu', model],
    ['-m', '256'],
    ['-nodefaults', '-no-user-config', '-no-reboot'],
    ['-display', 'none'],
    ['-serial', 'stdio'],
    ['-kernel', kernel.vmlinuz],
    ['-initrd', kernel.initramfs],
    ['-append', 'console=ttyS0 panic=-1'],
  ].flat();
  const result = await runTrial(program, { args, timeoutMs: TRIAL_TIMEOUT_MS, until: SIGN_OF_LIFE, signal });
  if (result.stdout.includes(SIGN_OF_LIFE)) return { runs: true, model, reason: why };
  return { runs: false, model, reason: `KVM did not run a kernel. QEMU said: ${result.lastWords}.${why}` };
}
