/** The trial that chooses between KVM and emulation, with the real kernel: the verdict must be what this host can really do. */
import { access, constants, readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { runsUnderKvm } from '@forkd/engine';
import { ensureInitramfs, ensureKernel } from '@forkd/images';
import { BUILT, requireBuilt, TEST_CACHE } from '@forkd/lab';

it('says of KVM what is true of it, in bounded time', async ({ skip }) => {
  await requireBuilt();
  const openable = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  skip(!openable, '/dev/kvm cannot be opened here');
  const kernel = await ensureKernel({ cacheDir: TEST_CACHE });
  const initramfs = await ensureInitramfs({ cacheDir: TEST_CACHE, kernel, agentBinary: BUILT.agent });
  const runs = await runsUnderKvm('qemu-system-x86_64', { vmlinuz: kernel.vmlinuz, initramfs });
  // A host without these flags may have the device and even run a few instructions with it, but no kernel.
  const flags = /^flags\s*:.*\b(vmx|svm)\b/m.test(await readFile('/proc/cpuinfo', 'utf8'));
  expect(runs).toBe(flags);
});
