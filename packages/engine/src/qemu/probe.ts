import { execFile, spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { EngineError } from '../errors.ts';
import type { Accelerator, KernelFiles } from '../types.ts';

/** A kernel that runs under KVM prints its first line well within this time; one that hangs never does. */
const TRIAL_TIMEOUT_MS = 4_000;

/** What a Linux kernel prints first. */
const SIGN_OF_LIFE = 'Linux version';

interface Choice {
  accelerator: Accelerator;
  reason: string;
}

interface Trial {
  program: string;
  version: string;
  cacheDir: string;
  probeKernel?: KernelFiles;
  signal?: AbortSignal;
}

/** The version that `program` prints, such as `7.2.22`. */
export async function readVersion(program: string, signal?: AbortSignal): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(program, ['--version'], signal ? { signal } : {});
    const version = /version (\d+(?:\.\d+)+)/.exec(stdout)?.[1];
    if (version !== undefined) return version;
    throw new Error(`it printed ${JSON.stringify(stdout.slice(0, 200))}`);
  } catch (cause) {
    signal?.throwIfAborted();
    throw new EngineError('engine_missing', `${program} does not tell its version.`, {
      hint: 'Install it with: apt-get install qemu-system-x86',
      cause,
    });
  }
}

/** KVM where it really runs a guest, else emulation. `/dev/kvm` alone proves nothing: it may be there and run no kernel. */
export async function chooseAccelerator(trial: Trial): Promise<Choice> {
  const tcg = (reason: string): Choice => ({ accelerator: 'tcg', reason });
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
  if (!trial.probeKernel) return { accelerator: 'kvm', reason: 'The processor offers virtualization.' };
  const runs = await remembered(trial, trial.probeKernel);
  return runs
    ? { accelerator: 'kvm', reason: 'KVM ran a kernel.' }
    : tcg(`KVM did not run a kernel within ${TRIAL_TIMEOUT_MS} ms, so guests are emulated.`);
}

/** The trial's outcome, from the cache if this boot of the host has seen it. */
async function remembered(trial: Trial, kernel: KernelFiles): Promise<boolean> {
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const path = join(trial.cacheDir, `kvm-${trial.version}-${boot}`);
  const known = await readFile(path, 'utf8').catch(() => undefined);
  if (known !== undefined) return known === 'yes';
  const runs = await runsUnderKvm(trial.program, kernel, trial.signal);
  await mkdir(trial.cacheDir, { recursive: true });
  await writeFile(path, runs ? 'yes' : 'no');
  return runs;
}

/** Whether a kernel under KVM shows a sign of life in time. */
export function runsUnderKvm(program: string, kernel: KernelFiles, signal?: AbortSignal): Promise<boolean> {
  const args = [
    ['-M', 'microvm,acpi=on,rtc=on'],
    ['-accel', 'kvm'],
    ['-cpu', 'host'],
    ['-m', '256'],
    ['-nodefaults', '-no-user-config', '-no-reboot'],
    ['-display', 'none'],
    ['-serial', 'stdio'],
    ['-kernel', kernel.vmlinuz],
    ['-initrd', kernel.initramfs],
    ['-append', 'console=ttyS0 panic=-1'],
  ].flat();
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'ignore'], ...(signal ? { signal } : {}) });
    const timer = setTimeout(() => child.kill('SIGKILL'), TRIAL_TIMEOUT_MS);
    let output = '';
    child.stdout.setEncoding('latin1').on('data', (text: string) => {
      output += text;
      if (output.includes(SIGN_OF_LIFE)) child.kill('SIGKILL');
    });
    child.once('error', reject);
    child.once('close', () => {
      clearTimeout(timer);
      resolve(output.includes(SIGN_OF_LIFE));
    });
  });
}
