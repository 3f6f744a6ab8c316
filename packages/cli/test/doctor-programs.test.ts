// Proves of `forkd doctor` that each row about programs, images and the data directory says what is so, in each of its states:
// with a PATH of links on which a program is missing or another, another database of packages, file systems that are full or
// read-only, and QEMU really starting a guest's firmware.
import { spawnSync } from 'node:child_process';
import { access, chmod, constants, copyFile, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { runtimePackages } from '../../../scripts/lib/debian.mjs';
import { after, covering, dataDirWithKernel, doctorOn, pathWith, rowWith, whyNoMounts } from './support/doctor.ts';
import { here, serveForkd } from './support/forkd.ts';

serveForkd();

const QEMU = 'qemu-system-x86_64';
const VIRTUAL = 'processor\t: 0\nflags\t\t: fpu vmx sse2\n';

let noMounts: string | undefined;
beforeAll(() => (noMounts = whyNoMounts()));

describe('QEMU', () => {
  test('is there, loads the shim and runs a guest', () => {
    const rows = doctorOn();
    expect(rows.get('engine_binary')).toMatchObject({ status: 'pass', detail: expect.stringContaining(QEMU) });
    const version = /version (\S+)/.exec(spawnSync(QEMU, ['--version'], { encoding: 'utf8' }).stdout)?.[1];
    expect(rows.get('engine_version')).toMatchObject({ status: 'pass', detail: `QEMU ${version}` });
    expect(rows.get('shim')).toMatchObject({
      status: 'pass',
      detail: expect.stringMatching(/libforkd_shim\.so was loaded into .*qemu-system/),
    });
    expect(rows.get('accelerator')?.detail).toMatch(/^(kvm: KVM ran|kvm: The processor offers|tcg: .+ emulated)/);
  });

  test('is not there', async () => {
    const env = { PATH: await pathWith({}, QEMU) };
    expect(await rowWith('engine_binary', { env })).toMatchObject({
      status: 'fail',
      fix: 'apt-get install -y --no-install-recommends qemu-system-x86',
    });
    for (const id of ['engine_version', 'shim', 'accelerator']) {
      expect(await rowWith(id, { env })).toMatchObject({ status: 'skip' });
    }
  });

  test('does not start, or is something else', async () => {
    const broken = { PATH: await pathWith({ [QEMU]: '#!/bin/sh\necho no disk >&2; exit 3\n' }) };
    expect(await rowWith('engine_binary', { env: broken })).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining('no disk'),
    });
    const other = { PATH: await pathWith({ [QEMU]: '#!/bin/sh\necho hello\n' }) };
    expect(await rowWith('engine_version', { env: other })).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining('no version'),
    });
  });

  test('is too old, and runs no guest', async () => {
    const old = '#!/bin/sh\n[ "$1" = --version ] && echo "QEMU emulator version 6.2.0"\n';
    const env = { PATH: await pathWith({ [QEMU]: old }) };
    expect(await rowWith('engine_version', { env })).toMatchObject({ status: 'fail', detail: 'QEMU 6.2.0' });
    expect(await rowWith('accelerator', { env })).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining('runs no guest'),
      fix: expect.stringContaining('--reinstall qemu-system-x86'),
    });
  });

  test('has the shim that cannot be loaded, or that is not there', async () => {
    const text = join(here, 'shim.so');
    await writeFile(text, 'not a library');
    expect(await rowWith('shim', { env: { FORKD_SHIM: text } })).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining('cannot be preloaded'),
    });
    const env = { FORKD_SHIM: `${text}-gone` };
    expect(await rowWith('shim', { env })).toMatchObject({ status: 'fail' });
    expect(await rowWith('native_programs', { env })).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining(`${text}-gone`),
    });
  });
});

describe('Firecracker', () => {
  // Linked statically, as the real ones are: a jailed one has no library in its root.
  const built = new URL('../../../target/guest/x86_64-unknown-linux-gnu/release/', import.meta.url);

  /** A PATH on which it is the stand-in, which is what `config` says. */
  async function standIn(config: object, ...others: string[]): Promise<NodeJS.ProcessEnv> {
    const PATH = await pathWith({ 'stand-in.json': JSON.stringify(config) }, 'firecracker', 'jailer', QEMU);
    await copyFile(new URL('forkd-firecracker-stand-in', built), join(PATH, 'firecracker'));
    for (const name of others) {
      await writeFile(join(PATH, name), '#!/bin/sh\necho no cgroups >&2; exit 1\n');
      await chmod(join(PATH, name), 0o755);
    }
    return { PATH };
  }

  test('is not there: nobody needs it', async () => {
    const env = { PATH: await pathWith({}, 'firecracker') };
    expect(await rowWith('firecracker', { env })).toMatchObject({
      status: 'skip',
      hint: expect.stringMatching(/QEMU runs .*releases/),
    });
    for (const id of ['firecracker_live', 'jailer']) {
      expect(await rowWith(id, { env })).toMatchObject({ status: 'skip', detail: 'there is no Firecracker to ask' });
    }
  });

  test('is there, as it is published, without its jailer', async () => {
    const env = await standIn({ version: '1.12.3' });
    expect(await rowWith('firecracker', { env })).toMatchObject({
      status: 'pass',
      detail: `Firecracker 1.12.3, ${join(env['PATH'] ?? '', 'firecracker')}`,
    });
    expect(await rowWith('firecracker_live', { env })).toMatchObject({
      status: 'warn',
      detail: 'it has no mem_backend.shared, VmstateOnly, PUT /uffd/wp',
      hint: expect.stringContaining('diff and full branches work'),
    });
    expect(await rowWith('jailer', { env })).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('not on PATH'),
      hint: expect.stringContaining('releases'),
    });
  });

  test('has what live branches take', async () => {
    const env = await standIn({ extensions: true });
    expect(await rowWith('firecracker_live', { env })).toMatchObject({
      status: 'pass',
      detail: 'it has mem_backend.shared, VmstateOnly, PUT /uffd/wp',
    });
    const killed = await standIn({ extensions: true, filters: 'from_load' });
    expect(await rowWith('firecracker_live', { env: killed })).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('it ended (SIGSYS)'),
      hint: expect.stringContaining('diff and full branches work'),
    });
  });

  test('has a jailer that does not work, or one that does', async ({ skip }) => {
    expect(await rowWith('jailer', { env: await standIn({}, 'jailer') })).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('does not work here'),
    });
    const env = await standIn({});
    await copyFile(new URL('forkd-jailer-stand-in', built), join(env['PATH'] ?? '', 'jailer'));
    skip(process.geteuid?.() !== 0, 'a jailer works for root alone');
    expect(await rowWith('jailer', { env })).toMatchObject({ status: 'pass' });
  });

  test('is too old, or ends at once', async () => {
    const old = await standIn({ version: '1.5.0' });
    expect(await rowWith('firecracker', { env: old })).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('1.5.0 is older than'),
    });
    const broken = await standIn({ fault: 'exit_early' });
    expect(await rowWith('firecracker', { env: broken })).toMatchObject({
      status: 'warn',
      hint: expect.stringContaining('QEMU is not affected'),
    });
    for (const id of ['firecracker_live', 'jailer']) {
      expect(await rowWith(id, { env: broken })).toMatchObject({ status: 'skip' });
    }
  });
});

describe('KVM, on a host whose processor says that it can', () => {
  test('is tried as the controller tries it: a success is noted until the host is booted again, a failure is not', async ({
    skip,
  }) => {
    const isOpen = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    );
    skip(!isOpen, '/dev/kvm cannot be opened here');
    skip(noMounts !== undefined, noMounts);
    const through = after(await covering('/proc/cpuinfo', VIRTUAL));
    // No kernel at all, which runs nowhere.
    const dataDir = await dataDirWithKernel('/dev/null', '/dev/null');
    const accelerator = (env: NodeJS.ProcessEnv = {}) => doctorOn({ through, dataDir, env }).get('accelerator');
    const fails = {
      status: 'warn',
      detail: expect.stringMatching(/^tcg: Guests are emulated\. KVM did not run a kernel\. QEMU said: .+/),
      hint: expect.stringContaining('more slowly'),
    };
    expect(accelerator()).toMatchObject(fails);
    // A QEMU whose kernel runs, as one does on a host that has been mended meanwhile.
    const version = spawnSync(QEMU, ['--version'], { encoding: 'utf8' }).stdout.split('\n')[0];
    const mended = `#!/bin/sh\ncase "$*" in --version) echo "${version}" ;; *-kernel*) echo Linux version ;; esac\n`;
    const runs = { status: 'pass', detail: 'kvm: KVM ran a kernel.' };
    expect(accelerator({ PATH: await pathWith({ [QEMU]: mended }) })).toMatchObject(runs);
    expect(accelerator()).toMatchObject(runs);
  });
});

describe('what images are made with', () => {
  test('is there', async () => {
    expect(await rowWith('image_tools')).toMatchObject({
      status: 'pass',
      detail: expect.stringContaining('mkfs.erofs, '),
    });
    expect(await rowWith('packages')).toMatchObject({ status: 'pass', detail: runtimePackages.join(' ') });
  });

  test('is missing in part: the packages that bring it are named', async () => {
    const PATH = await pathWith({}, 'mkfs.erofs', 'skopeo', 'dpkg-query');
    const env = { PATH };
    expect(await rowWith('image_tools', { env })).toMatchObject({
      status: 'warn',
      detail: 'missing: mkfs.erofs (any image), skopeo (registries and archives)',
      fix: 'apt-get install -y --no-install-recommends erofs-utils skopeo',
    });
    expect(await rowWith('packages', { env })).toMatchObject({
      status: 'skip',
      detail: expect.stringContaining('not Debian'),
    });
  });

  test('is not what the set-up of a checkout installs', async () => {
    const DPKG_ADMINDIR = await mkdtemp(join(here, 'dpkg-'));
    await writeFile(join(DPKG_ADMINDIR, 'status'), '');
    expect(await rowWith('packages', { env: { DPKG_ADMINDIR } })).toMatchObject({
      status: 'warn',
      fix: `apt-get install -y --no-install-recommends ${runtimePackages.join(' ')}`,
    });
  });
});

describe('the guest kernel', () => {
  test('is not fetched yet, and cannot be without apt-get', async () => {
    expect(await rowWith('kernel_image')).toMatchObject({ status: 'skip', detail: 'none is fetched yet' });
    const env = { PATH: await pathWith({}, 'apt-get') };
    expect(await rowWith('kernel_image', { env })).toMatchObject({
      status: 'warn',
      hint: expect.stringContaining('--kernel FILE'),
    });
  });

  test('is a boot image, or damaged: only what was fetched is offered for removal', async () => {
    const dataDir = await mkdtemp(join(here, 'kernel-'));
    const home = join(dataDir, 'cache/kernels/6.1.0');
    await mkdir(home, { recursive: true });
    const vmlinuz = join(home, 'vmlinuz');
    const note = join(dataDir, 'cache/guest-boot.json');
    await writeFile(note, JSON.stringify({ vmlinuz, initramfs: vmlinuz }));
    const header = Buffer.alloc(0x400);
    header.write('HdrS', 0x202);
    await writeFile(vmlinuz, header);
    expect(await rowWith('kernel_image', { dataDir })).toMatchObject({ status: 'pass', detail: vmlinuz });
    await writeFile(vmlinuz, header.subarray(0, 0x203));
    expect(await rowWith('kernel_image', { dataDir })).toMatchObject({ status: 'warn', fix: `rm -r ${home}` });
    const elsewhere = await dataDirWithKernel(vmlinuz, vmlinuz);
    const row = await rowWith('kernel_image', { dataDir: elsewhere });
    expect(row).toMatchObject({ status: 'warn', detail: `${vmlinuz} is not a boot image` });
    expect(row).not.toHaveProperty('fix');
  });
});

describe('the data directory', () => {
  test('will be made, or is no directory', async () => {
    const dataDir = join(here, 'not/yet');
    expect(await rowWith('snapshot_dir', { dataDir })).toMatchObject({
      status: 'pass',
      detail: `${dataDir} (will be made)`,
    });
    expect(await access(dirname(dataDir)).catch((error: NodeJS.ErrnoException) => error.code)).toBe('ENOENT');
    const file = join(here, 'file');
    await writeFile(file, '');
    expect(await rowWith('snapshot_dir', { dataDir: file })).toMatchObject({
      status: 'fail',
      detail: `${file} is not a directory`,
    });
  });

  const disks = [
    { options: 'size=100M', directory: 'pass', space: 'fail' },
    { options: 'size=1G', directory: 'pass', space: 'warn' },
    { options: 'size=4G', directory: 'pass', space: 'pass' },
    { options: 'ro,size=4G', directory: 'fail', space: 'pass' },
  ];
  test.for(disks)('is on a file system with $options', async ({ options, directory, space }, { skip }) => {
    skip(noMounts !== undefined, noMounts);
    const dataDir = await mkdtemp(join(here, 'disk-'));
    // Rows of QEMU are of no interest here, and take the longest.
    const env = { PATH: await pathWith({}, QEMU) };
    const rows = doctorOn({ through: after(`mount -t tmpfs -o ${options} none ${dataDir}`), env, dataDir });
    expect(rows.get('snapshot_dir')?.status).toBe(directory);
    expect(rows.get('free_space')?.status).toBe(space);
  });
});
