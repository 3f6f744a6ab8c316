import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FirecrackerEngine, probeAcceleration } from '@forkd/engine';
import { removeTree } from '@forkd/store';
import { locateBinaries } from '../binaries.ts';
import { limits } from '../limits.ts';
import { dataPaths } from '../paths.ts';
import { GuestBoot } from './guest-boot.ts';

/**
 * Finds out what the `firecracker` on PATH can do, with a process without a VM and with VMs that are ended at once. Nothing is
 * left behind. Throws `engine_missing` with what is wrong.
 */
export async function probeFirecracker() {
  const root = tmpdir();
  const dir = await mkdtemp(join(root, 'forkd-probe-'));
  const late = new AbortController();
  // The timer also keeps this process alive, which a VMM does not.
  const timer = setTimeout(() => late.abort(new Error('It took too long.')), limits.probeTimeoutMs);
  try {
    const { version, features, isolation, capabilities } = await FirecrackerEngine.create({ dir, signal: late.signal });
    return {
      version,
      shared_memory: features.sharedMemory,
      vmstate_only: features.vmstateOnly,
      write_protect: features.writeProtect,
      live: capabilities.live,
      jailer: isolation.find(({ id }) => id === 'jailer') ?? null,
    };
  } finally {
    clearTimeout(timer);
    await removeTree(root, dir);
  }
}

/**
 * The accelerator and processor model with which QEMU runs guests here, found as by the controller of `dataDir`: with the
 * kernel that was booted last, if there is one. Throws `engine_missing` with the reason.
 */
export async function probeAccelerator(dataDir: string) {
  const { cache: cacheDir } = dataPaths(dataDir);
  const kernel = await new GuestBoot(cacheDir, locateBinaries(), { vsock: false }).known();
  const signal = AbortSignal.timeout(limits.probeTimeoutMs);
  const found = await probeAcceleration({ cacheDir, signal, ...(kernel !== null && { probeKernel: kernel }) });
  return { accelerator: found.accelerator, cpu_model: found.cpuModel, reason: found.reason };
}
