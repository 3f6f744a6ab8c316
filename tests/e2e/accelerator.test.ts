/**
 * The trial that chooses between KVM and emulation, with the real kernel: the verdict must be what this host can really do, and
 * the one that `forkd doctor` comes to where no controller has tried.
 */
import { spawnSync } from 'node:child_process';
import { access, constants, mkdir, mkdtemp, rm, writeFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type KernelFiles, tryKvm } from '@forkd/engine';
import { ensureInitramfs, ensureKernel } from '@forkd/images';
import { BUILT, REPO, requireBuilt, TEST_CACHE } from '@forkd/testing';
import { beforeAll, describe, expect, test } from 'vitest';

const MAIN = join(REPO, 'packages/cli/bundle/forkd.js');
/** Runs `"$@"` where the processor says that it can virtualize: doctor tries KVM only there. */
const COVERED = 'mount --bind "$1" /proc/cpuinfo; shift; exec "$@"';

describe('a trial of KVM', () => {
  let openable: boolean;
  let files: KernelFiles;
  let runs: boolean;

  beforeAll(async () => {
    await requireBuilt();
    openable = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    );
    if (!openable) return;
    const kernel = await ensureKernel({ cacheDir: TEST_CACHE });
    const initramfs = await ensureInitramfs({ cacheDir: TEST_CACHE, kernel, agentBinary: BUILT.agent });
    files = { vmlinuz: kernel.vmlinuz, initramfs };
    ({ runs } = await tryKvm('qemu-system-x86_64', files));
  });

  test('tells the truth about KVM, in bounded time', async ({ skip }) => {
    skip(!openable, '/dev/kvm cannot be opened here');
    // A host without these flags may have the device and even run a few instructions with it, but no kernel.
    const flags = /^flags\s*:.*\b(vmx|svm)\b/m.test(await readFile('/proc/cpuinfo', 'utf8'));
    expect(runs).toBe(flags);
  });

  test('reaches the same verdict in `forkd doctor`', async ({ skip }) => {
    skip(!openable, '/dev/kvm cannot be opened here');
    const dir = await mkdtemp('/tmp/fk-');
    try {
      const cpuinfo = join(dir, 'cpuinfo');
      await writeFile(cpuinfo, 'flags\t\t: vmx svm\n');
      const covered = ['--mount', '--propagation', 'private', 'sh', '-euc', COVERED, 'sh', cpuinfo];
      const { status, stderr } = spawnSync('unshare', [...covered, 'true'], { encoding: 'utf8' });
      skip(status !== 0, `mounts of its own cannot be made here: ${stderr}`);
      await mkdir(join(dir, 'cache'));
      await writeFile(join(dir, 'cache/guest-boot.json'), JSON.stringify(files));
      const doctor = [process.execPath, MAIN, 'doctor', '--json', '--data-dir', dir];
      const env = { ...process.env, FORKD_URL: '', FORKD_SOCKET: '' };
      const { stdout } = spawnSync('unshare', [...covered, ...doctor], { env, encoding: 'utf8' });
      const { rows } = JSON.parse(stdout) as { rows: { id: string }[] };
      expect(rows.find(({ id }) => id === 'accelerator')).toMatchObject(
        runs
          ? { status: 'pass', detail: expect.stringMatching(/^kvm: KVM ran a kernel/) }
          : { status: 'warn', detail: expect.stringMatching(/^tcg: Guests are emulated\. KVM did not run a kernel/) },
      );
      expect(rows.find(({ id }) => id === 'kernel_image')).toMatchObject({ status: 'pass', detail: files.vmlinuz });
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  });
});
