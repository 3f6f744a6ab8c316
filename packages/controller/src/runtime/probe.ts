import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { FirecrackerEngine } from '@forkd/engine';
import { removeTree } from '@forkd/store';

import { limits } from '../limits.ts';

/**
 * What the `firecracker` on PATH can do, found by asking one without a VM, for those who want to know before they use it. Nothing
 * is left behind. Throws `engine_missing` with what is wrong.
 */
export async function probeFirecracker() {
  const root = tmpdir();
  const dir = await mkdtemp(join(root, 'forkd-probe-'));
  const late = new AbortController();
  // It also keeps this process, which a VMM does not.
  const timer = setTimeout(() => late.abort(new Error('It took too long.')), limits.probeTimeoutMs);
  try {
    const { version, features, isolation } = await FirecrackerEngine.create({ dir, signal: late.signal });
    return {
      version,
      shared_memory: features.sharedMemory,
      vmstate_only: features.vmstateOnly,
      write_protect: features.writeProtect,
      jailer: isolation.find(({ id }) => id === 'jailer') ?? null,
    };
  } finally {
    clearTimeout(timer);
    await removeTree(root, dir);
  }
}
