// Proves of `forkd doctor` that each row about the machine and its kernel says what is so, in each of its states. The states are
// real: calls fail by a seccomp filter, files of the kernel are covered in a mount namespace of the command's own, the kernel
// tells another version, the user is another.
import { spawnSync } from 'node:child_process';
import { chmodSync } from 'node:fs';
import { access, constants, mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Row } from '../src/commands/doctor/row.ts';
import { after, covering, doctorOn, MAIN, pathWith, rowWith, whyNoMounts, without } from './support/doctor.ts';
import { here, serveForkd } from './support/forkd.ts';

serveForkd();

const CPU = (flags: string) => `processor\t: 0\nflags\t\t: fpu ${flags} sse2\n`;
const GIB_IN_KIB = 1024 * 1024;
/** A /dev with what programs need, and nothing else. */
const BARE_DEV = [
  'mount -t tmpfs none /dev',
  'mknod -m 666 /dev/null c 1 3',
  'mknod -m 666 /dev/urandom c 1 9',
  'ln -s /proc/self/fd /dev/fd',
];
const NO_CGROUPS = 'umount --recursive /sys/fs/cgroup 2> /dev/null || true';

let noMounts: string | undefined;
/** Rows of QEMU are of no interest to most, and take the longest. */
let noQemu: { PATH: string };
beforeAll(async () => {
  noMounts = whyNoMounts();
  noQemu = { PATH: await pathWith({}, 'qemu-system-x86_64') };
});

type Skip = (condition: boolean, note?: string) => void;

/** The rows where these lines were run first. */
function rowsAfter(lines: readonly string[], skip: Skip, env: NodeJS.ProcessEnv = noQemu): Map<string, Row> {
  skip(noMounts !== undefined, noMounts);
  return doctorOn({ through: after(...lines), env });
}

describe('what the kernel gives, as it is found by trying', () => {
  test('is there', () => {
    const rows = doctorOn({ env: noQemu });
    expect(rows.get('uffd_wp')).toMatchObject({ status: 'pass', detail: 'a memfd was write-protected' });
    expect(rows.get('page_server')).toMatchObject({ status: 'pass', detail: expect.stringContaining('was served') });
    expect(rows.get('memfd_create')).toMatchObject({ status: 'pass' });
    expect(rows.get('pagemap_scan')).toMatchObject({ status: 'pass', detail: expect.stringContaining('listed') });
    expect(rows.get('native_programs')).toMatchObject({
      status: 'pass',
      detail: expect.stringMatching(/forkd-pager.*libforkd_shim.*forkd-jail.*forkd-agent/),
    });
  });

  test('lacks userfaultfd and PAGEMAP_SCAN, as old ones do: live branches are lost, lists take longer', () => {
    const rows = doctorOn({ env: noQemu, through: without('userfaultfd', 'pagemap-scan') });
    expect(rows.get('uffd_wp')).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('userfaultfd: Function not implemented'),
      hint: expect.stringMatching(/live branches are lost; diff and full .* work.*5\.19/),
    });
    expect(rows.get('uffd_wp')).not.toHaveProperty('fix');
    expect(rows.get('page_server')).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('userfaultfd: Function not implemented'),
      hint: expect.stringContaining('forkd-page-server can serve no VM'),
    });
    expect(rows.get('pagemap_scan')).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('Inappropriate ioctl'),
      hint: expect.stringContaining('6.7'),
    });
  });

  test('gives userfaultfd to root alone: the sysctl mends it', async ({ skip }) => {
    const sysctl = '/proc/sys/vm/unprivileged_userfaultfd';
    const denied = without('userfaultfd:EPERM', 'userfaultfd-device:EPERM');
    for (const [value, lost] of [
      ['0', { hint: expect.stringContaining('diff'), fix: 'sysctl -w vm.unprivileged_userfaultfd=1' }],
      ['1', { hint: expect.stringContaining('seccomp') }],
    ] as const) {
      skip(noMounts !== undefined, noMounts);
      const through = [...after(await covering(sysctl, `${value}\n`)), ...denied];
      const rows = doctorOn({ env: noQemu, through });
      const pageServer = { status: 'warn', detail: expect.stringContaining('not permitted'), ...lost };
      expect(rows.get('page_server')).toMatchObject({
        ...pageServer,
        hint: expect.stringContaining('forkd-page-server can serve'),
      });
      const row = rows.get('uffd_wp');
      expect(row).toMatchObject({ status: 'warn', detail: expect.stringContaining('not permitted'), ...lost });
      expect(row).toEqual({ id: 'uffd_wp', status: 'warn', where: 'local', detail: row?.detail, ...lost });
    }
  });

  test('serves pages and maps none of a memfd, as one before Linux 5.13: forks share no memory', () => {
    const rows = doctorOn({ env: noQemu, through: without('userfaultfd-continue') });
    expect(rows.get('uffd_wp')?.status).toBe('pass');
    expect(rows.get('page_server')).toMatchObject({
      status: 'warn',
      detail: expect.stringContaining('mapping a page of shared memory: Invalid argument'),
      hint: expect.stringContaining('share no memory'),
    });
  });

  test('lacks memfds, or the page map tells nothing: that is the end of it', () => {
    const rows = doctorOn({ env: noQemu, through: without('memfd_create', 'pagemap-scan:EIO') });
    expect(rows.get('memfd_create')).toMatchObject({
      status: 'fail',
      hint: expect.stringContaining('seccomp profile'),
    });
    expect(rows.get('uffd_wp')).toMatchObject({ status: 'warn', detail: expect.stringContaining('creating a memfd') });
    expect(rows.get('pagemap_scan')).toMatchObject({ status: 'fail', detail: expect.stringContaining('os error 5') });
  });

  test('is not known without the pager, which is not built', async () => {
    const gone = join(here, 'no-pager');
    const env = { FORKD_PAGER_BIN: gone };
    for (const id of ['uffd_wp', 'page_server', 'memfd_create', 'pagemap_scan']) {
      expect(await rowWith(id, { env })).toMatchObject({ status: 'skip', detail: expect.stringContaining(gone) });
    }
    expect(await rowWith('native_programs', { env })).toMatchObject({
      status: 'fail',
      detail: `not there: ${gone} (FORKD_PAGER_BIN names another)`,
    });
  });
});

describe('the machine', () => {
  test('is an older kernel', async () => {
    const rows = doctorOn({ env: noQemu, through: ['setarch', 'x86_64', '--uname-2.6'] });
    expect(rows.get('kernel_version')).toMatchObject({ status: 'warn', hint: expect.stringContaining('5.19') });
    expect((await rowWith('kernel_version')).status).toBe('pass');
  });

  test('is of another kind, or its Node is too old', () => {
    const other = doctorOn({ env: noQemu, through: ['setarch', 'i686'] });
    expect(other.get('platform')).toMatchObject({ status: 'fail', detail: expect.stringContaining('i686') });
    const versions = `Object.defineProperty(process.versions, 'node', { value: '20.9.0' })`;
    const script = `data:text/javascript,${encodeURIComponent(versions)}`;
    const old = doctorOn({ env: { ...noQemu, NODE_OPTIONS: `--import=${script}` } });
    expect(old.get('platform')).toMatchObject({ status: 'fail', hint: expect.stringContaining('20.19.0') });
  });

  test('is used by another than root, who may open less', async ({ skip }) => {
    skip(noMounts !== undefined, noMounts);
    const dataDir = join(here, 'closed');
    await mkdir(dataDir, { mode: 0o700 });
    chmodSync(here, 0o755);
    const nobody = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups'] as const;
    const [program, ...options] = nobody;
    const isReadable = spawnSync(program, [...options, 'test', '-r', MAIN]).status === 0;
    skip(!isReadable, `another user may not read ${MAIN}`);
    const kvm = ['mknod -m 600 /dev/kvm c 10 232'];
    const rows = doctorOn({ env: noQemu, through: [...after(...BARE_DEV, ...kvm), ...nobody], dataDir });
    expect(rows.get('platform')).toMatchObject({ status: 'warn', hint: expect.stringContaining('as root') });
    expect(rows.get('kvm')).toMatchObject({ status: 'warn', hint: expect.stringContaining('group kvm') });
    expect(rows.get('snapshot_dir')).toMatchObject({ status: 'fail', detail: expect.stringContaining('written to') });
    expect(await rowWith('platform')).toMatchObject({ status: 'pass' });
  });

  test('offers no virtualization, little memory and few mappings, merges pages and has no cgroups', async ({
    skip,
  }) => {
    const rows = rowsAfter(
      [
        await covering('/proc/cpuinfo', CPU('')),
        await covering('/proc/meminfo', meminfo(600 * 1024, 8)),
        await covering('/proc/sys/vm/max_map_count', '1000\n'),
        await covering('/sys/kernel/mm/ksm/run', '1\n'),
        NO_CGROUPS,
        ...BARE_DEV,
      ],
      skip,
      {},
    );
    expect(rows.get('hw_virt')).toMatchObject({ status: 'warn', hint: expect.stringContaining('firmware') });
    expect(rows.get('kvm')).toMatchObject({ status: 'warn', detail: '/dev/kvm is not there' });
    expect(rows.get('kvm')).not.toHaveProperty('fix');
    expect(rows.get('accelerator')).toMatchObject({
      status: 'warn',
      detail: 'tcg: /dev/kvm cannot be opened, so guests are emulated.',
    });
    expect(rows.get('memory')).toMatchObject({
      status: 'warn',
      detail: '600 MiB available: about 7 children of 64.0 MiB each',
      hint: expect.stringContaining('--mem-mib'),
    });
    expect(rows.get('max_map_count')).toMatchObject({ status: 'warn', fix: 'sysctl -w vm.max_map_count=262144' });
    expect(rows.get('ksm')).toMatchObject({ status: 'warn', fix: 'echo 2 | tee /sys/kernel/mm/ksm/run' });
    expect(rows.get('hugepages')?.detail).toContain('8 reserved, 16.0 MiB that');
    expect(rows.get('cgroup_v2')).toMatchObject({
      status: 'warn',
      detail: 'no hierarchy is mounted',
      hint: expect.stringContaining('memory limit'),
      fix: expect.stringMatching(/^mount -t cgroup2? .*\/sys\/fs\/cgroup$/),
    });
    expect(rows.get('tap_device')).toMatchObject({ status: 'skip', detail: expect.stringContaining('is not there') });
  });

  test('offers virtualization with its module not loaded, and enough of all', async ({ skip }) => {
    const lines = [
      await covering('/proc/cpuinfo', CPU('svm')),
      await covering('/proc/meminfo', meminfo(2 * GIB_IN_KIB, 0)),
      await covering('/proc/sys/vm/max_map_count', '65530\n'),
      await covering('/sys/kernel/mm/ksm/run', '2\n'),
      ...BARE_DEV,
      'mkdir /dev/net && mknod /dev/net/tun c 10 200',
      NO_CGROUPS,
      'mount -t cgroup2 none /sys/fs/cgroup',
      await covering('/sys/fs/cgroup/cgroup.controllers', 'cpu memory pids\n'),
    ];
    const rows = rowsAfter(lines, skip);
    expect(rows.get('hw_virt')).toMatchObject({ status: 'pass', detail: 'the processor has svm' });
    expect(rows.get('kvm')).toMatchObject({ status: 'warn', fix: 'modprobe kvm_amd' });
    expect(rows.get('memory')).toMatchObject({ status: 'pass', detail: expect.stringContaining('about 30 children') });
    expect(rows.get('max_map_count')).toMatchObject({ status: 'pass' });
    expect(rows.get('ksm')).toMatchObject({ status: 'pass', detail: expect.stringContaining('is 2') });
    expect(rows.get('hugepages')?.detail).toContain('none reserved');
    expect(rows.get('cgroup_v2')).toMatchObject({ status: 'pass', detail: '/sys/fs/cgroup limits memory' });
    expect(rows.get('tap_device')).toMatchObject({ status: 'skip', detail: expect.stringContaining('is there') });
  });

  test('has too little memory for any sandbox, a /dev/kvm that is none, cgroups without memory', async ({ skip }) => {
    const lines = [
      await covering('/proc/cpuinfo', CPU('vmx')),
      await covering('/proc/meminfo', meminfo(150 * 1024, 0)),
      NO_CGROUPS,
      'mount -t cgroup2 none /sys/fs/cgroup',
      await covering('/sys/fs/cgroup/cgroup.controllers', 'cpu\n'),
      ...BARE_DEV,
      'touch /dev/kvm',
    ];
    const rows = rowsAfter(lines, skip);
    expect(rows.get('memory')).toMatchObject({ status: 'fail', detail: expect.stringContaining('about 0 children') });
    expect(rows.get('kvm')).toMatchObject({ status: 'warn', detail: '/dev/kvm is no device' });
    const cgroups = rows.get('cgroup_v2');
    expect(cgroups).toMatchObject({ status: 'warn', detail: '/sys/fs/cgroup does not limit memory' });
    expect(cgroups).not.toHaveProperty('fix');
  });

  test('hides what a row looks at: that row is skipped, and the others are not', async ({ skip }) => {
    const lines = [
      await covering('/proc/meminfo', 'MemTotal: 1 kB\n'),
      'mount -t tmpfs none /proc/sys/vm',
      'mount -t tmpfs none /sys/kernel/mm',
      ...BARE_DEV,
      // A number that no driver has.
      'mknod -m 666 /dev/kvm c 10 253',
    ];
    const rows = rowsAfter(lines, skip);
    expect(rows.get('memory')).toMatchObject({ status: 'skip' });
    expect(rows.get('max_map_count')).toMatchObject({ status: 'skip', detail: expect.stringContaining('ENOENT') });
    expect(rows.get('ksm')).toMatchObject({ status: 'pass', detail: 'this kernel merges no pages' });
    expect(rows.get('hugepages')?.detail).toContain('not offered');
    expect(rows.get('kvm')).toMatchObject({ status: 'warn', detail: expect.stringContaining('cannot be opened: E') });
  });

  test('has a network of its own, which no row judges yet', async ({ skip }) => {
    skip(noMounts !== undefined, noMounts);
    const script = 'echo 1 > /proc/sys/net/ipv4/ip_forward; exec "$@"';
    const rows = doctorOn({ env: noQemu, through: ['unshare', '--net', 'sh', '-euc', script, 'sh'] });
    expect(rows.get('ip_forward')).toMatchObject({
      status: 'skip',
      detail: expect.stringContaining('ip_forward is 1'),
    });
    expect(rows.get('per_child_netns')).toMatchObject({ status: 'skip', detail: expect.stringContaining('are there') });
  });

  test('has the KVM that it has', async () => {
    const openable = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    );
    const flags = /^flags\s*:.*\b(vmx|svm)\b/m.test(await readFile('/proc/cpuinfo', 'utf8'));
    expect((await rowWith('kvm')).status).toBe(openable ? 'pass' : 'warn');
    expect((await rowWith('hw_virt')).status).toBe(flags ? 'pass' : 'warn');
  });
});

function meminfo(availableKib: number, hugePages: number): string {
  return `MemTotal: 9999999 kB\nMemAvailable: ${availableKib} kB\nHugePages_Total: ${hugePages}\nHugepagesize: 2048 kB\n`;
}
