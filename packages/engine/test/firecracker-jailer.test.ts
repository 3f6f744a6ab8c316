/**
 * VMs whose Firecracker is started by the jailer, with stand-ins for both: real processes, of which one really takes the other's
 * user, root and capabilities. What the kernel says of the process is what is believed. The stand-ins are linked statically, as
 * the real ones are, for there is no library in such a root.
 */
import { spawnSync } from 'node:child_process';
import {
  access,
  chmod,
  lstat,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { FirecrackerEngine } from '../src/firecracker/engine.ts';
import type { FirecrackerVm } from '../src/firecracker/vm.ts';
import type { Pager } from '../src/pager/client.ts';
import type { BranchDone } from '../src/pager/wire.ts';
import { isRunning, killProcess, readStartTicks } from '../src/process.ts';
import { Bench, differingPages, digests, MEM_MIB } from './firecracker-support.ts';

/** Nothing is made of layers where this stands. */
const NO_PAGER = {} as Pager;

let bench: Bench;
let engine: FirecrackerEngine;

beforeEach(async (context) => {
  context.skip(process.geteuid?.() !== 0, 'the jailer needs root');
  bench = await Bench.open({}, true);
  engine = await bench.engine();
});

afterEach(async () => {
  await bench[Symbol.asyncDispose]();
});

/** All of a paused VM's memory, written by its own process to where that can write. */
async function memoryOf(vm: FirecrackerVm): Promise<Buffer> {
  const dir = await vm.vmRoot.makeFiles('truth', ['state', 'memory']);
  await vm.api.createSnapshot({
    snapshot_type: 'Full',
    snapshot_path: 'truth/state',
    mem_file_path: 'truth/memory',
  });
  const memory = await readFile(join(dir, 'memory'));
  await rm(dir, { recursive: true });
  return memory;
}

/** A branch that leaves the VM stopped, once it has written something since the last, and the memory that it has. */
async function branchAndTruth(vm: FirecrackerVm, mode: 'full' | 'diff'): Promise<[BranchDone, Buffer]> {
  for (;;) {
    const done = await vm.branch({ mode, resume: false });
    if (done.stats.captured_pages > 0) return [done, await memoryOf(vm)];
    await vm.resume();
  }
}

function restore(pager: Pager, done: BranchDone, by = engine, memoryLimitMib?: number): Promise<FirecrackerVm> {
  const machine = by.machine(MEM_MIB, 1);
  const deviceState = bench.blob(done.device_state.digest);
  const limit = memoryLimitMib === undefined ? {} : { memoryLimitMib };
  return bench.keep(by.restore({ ...bench.spec(pager), machine, stack: digests(done), deviceState, ...limit }));
}

/** Fields of `/proc/PID/status`. */
async function statusOf(pid: number): Promise<Map<string, string>> {
  const lines = (await readFile(`/proc/${pid}/status`, 'utf8')).split('\n');
  return new Map(lines.map((line) => line.split(/:\s*/, 2) as [string, string]));
}

/** Which file a path leads to, by whatever name. */
async function identity(path: string): Promise<string> {
  const { dev, ino } = await stat(path);
  return `${dev}:${ino}`;
}

test('each VM has its own user, no capability, and a root with nothing but its own files', async () => {
  expect(Object.fromEntries(engine.isolation.map(({ id, ok }) => [id, ok]))).toMatchObject({
    seccomp: true,
    jailer: true,
    own_user: true,
    mount_namespace: true,
    no_capabilities: true,
    network_namespace: false,
    pid_namespace: false,
  });
  const vms = [await bench.boot(engine, NO_PAGER), await bench.boot(engine, NO_PAGER)] as const;
  const users = new Set<string>();
  for (const vm of vms) {
    const { pid } = vm.record;
    const status = await statusOf(pid);
    const user = String(vm.vmRoot.user);
    expect(status.get('Uid')).toBe(Array(4).fill(user).join('\t'));
    expect(status.get('Gid')).toBe(Array(4).fill(user).join('\t'));
    expect(status.get('Groups')?.trim()).toBe('');
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) expect(status.get(set)).toMatch(/^0+$/);
    users.add(user);
    expect(await identity(`/proc/${pid}/root/.`)).toBe(await identity(vm.vmRoot.root));
    // By these a controller finds it again whose record of it is lost.
    expect(await readlink(`/proc/${pid}/fd/1`)).toBe(join(vm.record.dir, 'console.log'));
    expect((await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')).toContain('--api-sock');
    expect(await readlink(`/proc/${pid}/ns/mnt`)).not.toBe(await readlink('/proc/self/ns/mnt'));
    expect((await readdir(`/proc/${pid}/root`)).toSorted()).toEqual(
      ['agent.sock', 'api.sock', 'dev', 'firecracker', 'initramfs', 'kernel', 'root.img', 'run']
        .concat('stand-in.json', 'vmm.log')
        .toSorted(),
    );
    // It shares the root image with all others, and cannot write it.
    expect(await identity(join(vm.vmRoot.root, 'root.img'))).toBe(await identity(bench.rootImage));
    const written = spawnSync('cp', ['/dev/null', `/proc/${pid}/root/root.img`], as(vm));
    expect(String(written.stderr)).toContain('Permission denied');
  }
  expect(users.size).toBe(2);
});

test('a VM cannot see or reach the files of another, nor those of the host', async () => {
  const [one, other] = [await bench.boot(engine, NO_PAGER), await bench.boot(engine, NO_PAGER)];
  for (const path of [
    join(other.vmRoot.root, 'vmm.log'),
    join(other.record.dir, 'console.log'),
    `/proc/${other.record.pid}/root/vmm.log`,
    `/proc/${other.record.pid}/mem`,
  ]) {
    // With nothing but its user to stop it: its root is not even entered.
    expect(String(spawnSync('cat', [path], as(one)).stderr)).toBe(`cat: ${path}: Permission denied\n`);
  }
  // Its own it can read, so that the refusals above are for what they seem to be.
  expect(spawnSync('cat', [`/proc/${one.record.pid}/root/vmm.log`], as(one)).status).toBe(0);
  // A file that it owns is not to be put in the place of one that the host opens.
  const renamed = spawnSync('mv', [`/proc/${one.record.pid}/root/vmm.log`, `/proc/${one.record.pid}/root/x`], as(one));
  expect(String(renamed.stderr)).toContain('Permission denied');
});

test('every page of every image is right through boot, branches and restores to depth three', async () => {
  const pager = await bench.pager();
  let vm = await bench.boot(engine, pager);
  const family: [BranchDone, Buffer][] = [await branchAndTruth(vm, 'full')];
  for (let depth = 2; depth <= 4; depth += 1) {
    vm = await restore(pager, (family.at(-1) as [BranchDone, Buffer])[0]);
    expect(await vm.api.instance()).toMatchObject({ state: 'Running' });
    family.push(await branchAndTruth(vm, 'diff'));
  }
  for (const [index, [done, truth]] of family.entries()) {
    expect(done.stack).toHaveLength(index + 1);
    expect(differingPages(await bench.memoryIn(pager, digests(done)), truth)).toBe(0);
  }
  expect((await readdir(vm.vmRoot.root)).filter((name) => name.startsWith('snapshot-'))).toEqual([]);
});

test('children after the first share one memory file, which is removed with the last of them', async () => {
  const pager = await bench.pager();
  const [done] = await branchAndTruth(await bench.boot(engine, pager), 'full');
  // It is served page by page.
  const first = await restore(pager, done);
  expect(await readdir(first.vmRoot.root)).not.toContain('memory');
  const children = [await restore(pager, done), await restore(pager, done)] as const;
  const [one, two] = await Promise.all(children.map(({ vmRoot }) => identity(join(vmRoot.root, 'memory'))));
  expect(one).toBe(two);
  const kept = join(bench.dir, 'engine/memory');
  expect(await readdir(kept)).toHaveLength(1);
  for (const child of children) await child.kill();
  expect(await readdir(kept)).toEqual([]);
});

test('jailed and unjailed VMs restore each other’s branches', async () => {
  const pager = await bench.pager();
  const [fromJail, inJail] = await branchAndTruth(await bench.boot(engine, pager), 'full');
  const jailer = join(bench.dir, 'bin/jailer');
  await rename(jailer, `${jailer}.away`);
  const plain = await bench.engine('plain');
  await rename(`${jailer}.away`, jailer);
  expect(plain.isolation.find(({ id }) => id === 'jailer')).toMatchObject({ ok: false });
  const outside = await restore(pager, fromJail, plain);
  expect(outside.vmRoot.user).toBeNull();
  const [fromOutside, truth] = await branchAndTruth(outside, 'diff');
  expect(digests(fromOutside)[0]).toBe(digests(fromJail)[0]);
  expect(differingPages(await bench.memoryIn(pager, digests(fromJail)), inJail)).toBe(0);
  const back = await restore(pager, fromOutside);
  expect(back.vmRoot.user).not.toBeNull();
  expect(differingPages(await bench.memoryIn(pager, digests(fromOutside)), truth)).toBe(0);
  const [after, now] = await branchAndTruth(back, 'diff');
  expect(differingPages(await bench.memoryIn(pager, digests(after)), now)).toBe(0);
});

test('kill leaves nothing of the root, no mount and no cgroup', async (context) => {
  const pager = await bench.pager();
  const [done] = await branchAndTruth(await bench.boot(engine, pager), 'full');
  const limit = engine.capabilities.memory_limit === true ? MEM_MIB * 4 : undefined;
  const vm = await restore(pager, done, engine, limit);
  const name = /\/forkd\/([0-9a-f]{32})$/m.exec(await readFile(`/proc/${vm.record.pid}/cgroup`, 'utf8'))?.[1] ?? 'none';
  expect((await groups()).includes(name)).toBe(limit !== undefined);
  const mountsHere = async () => (await readFile('/proc/self/mountinfo', 'utf8')).includes(bench.dir);
  expect(await mountsHere()).toBe(false);
  await vm.kill();
  expect((await readdir(vm.record.dir)).toSorted()).toEqual(['console.log', 'vmm.log']);
  expect(await isRunning(vm.record)).toBe(false);
  expect(await mountsHere()).toBe(false);
  expect(await groups()).not.toContain(name);
  context.skip(
    limit === undefined,
    'kill left nothing; that it leaves no cgroup is not shown: memory cannot be limited',
  );
});

/** Of VMMs with a memory limit, in either version's hierarchy. */
async function groups(): Promise<string[]> {
  const dirs = ['/sys/fs/cgroup/memory/forkd', '/sys/fs/cgroup/forkd'];
  return (await Promise.all(dirs.map((dir) => readdir(dir).catch(() => [])))).flat();
}

test('another engine adopts a jailed VM and branches it, and removes the root of one that has ended', async () => {
  const pager = await bench.pager();
  const parent = await bench.boot(engine, pager);
  const [done] = await branchAndTruth(parent, 'full');
  const vm = await restore(pager, done);
  const next = await bench.engine('next');
  const adopted = await next.adopt(vm.record, pager, false);
  if (!adopted) throw new Error('it runs');
  expect(adopted.vmRoot).toMatchObject({ user: vm.vmRoot.user, root: vm.vmRoot.root });
  const [later, truth] = await branchAndTruth(adopted, 'diff');
  expect(differingPages(await bench.memoryIn(pager, digests(later)), truth)).toBe(0);
  await adopted.api.close();
  await killProcess(vm.record);
  await vm.exited;
  expect(await next.adopt(vm.record, pager, false)).toBeNull();
  expect((await readdir(vm.record.dir)).toSorted()).toEqual(['console.log', 'vmm.log']);
});

test('files that only root may read and files on another file system are copied', async () => {
  await chmod(bench.rootImage, 0o600);
  const elsewhere = await mkdtemp('/dev/shm/fk-');
  try {
    const initramfs = join(elsewhere, 'initramfs');
    await writeFile(initramfs, 'from another file system', { mode: 0o644 });
    const kernel = { ...bench.kernel, initramfs };
    const spec = { ...bench.spec(NO_PAGER), memMib: MEM_MIB, vcpus: 1, kernel };
    const vm = await bench.keep(engine.boot(spec));
    expect(await readFile(join(vm.vmRoot.root, 'initramfs'), 'utf8')).toBe('from another file system');
    expect(await identity(join(vm.vmRoot.root, 'root.img'))).not.toBe(await identity(bench.rootImage));
    expect((await stat(join(vm.vmRoot.root, 'root.img'))).mode & 0o777).toBe(0o444);
  } finally {
    await rm(elsewhere, { recursive: true });
  }
});

test('a failure of the jailer is reported in its own words, and leaves nothing', async () => {
  await rm(bench.program);
  const spec = { ...bench.spec(NO_PAGER), memMib: MEM_MIB, vcpus: 1, kernel: bench.kernel };
  await expect(engine.boot(spec)).rejects.toMatchObject({
    code: 'vm_start_failed',
    message: `The VMM of ${spec.id} ended before the VM ran: status 1.`,
    hint: expect.stringContaining(`Jailer error: Failed to canonicalize path ${bench.program}`) as string,
  });
  expect((await readdir(spec.dir)).toSorted()).toEqual(['console.log', 'vmm.log']);
});

test('a missing file is refused by name', async () => {
  const nowhere = join(bench.dir, 'nowhere');
  const spec = { ...bench.spec(NO_PAGER), rootImage: nowhere, memMib: MEM_MIB, vcpus: 1, kernel: bench.kernel };
  await expect(engine.boot(spec)).rejects.toMatchObject({
    code: 'vm_start_failed',
    message: expect.stringContaining(`The file ${nowhere} cannot be shown to a jailed VMM: ENOENT`) as string,
  });
  await expect(access(join(spec.dir, 'jail'))).rejects.toThrow('ENOENT');
});

test('a jailer that does not work here is not used, and the isolation report says why', async () => {
  await writeFile(join(bench.dir, 'bin/jailer'), '#!/bin/sh\necho it is Tuesday >&2\nexit 3\n', { mode: 0o755 });
  const plain = await bench.engine('plain');
  for (const id of ['jailer', 'own_user', 'mount_namespace', 'no_capabilities']) {
    expect(plain.isolation.find((found) => found.id === id)).toMatchObject({
      ok: false,
      detail: expect.stringMatching(/does not work here\. .*status 3.* It said: it is Tuesday$/) as string,
    });
  }
  const vm = await bench.boot(plain, NO_PAGER);
  expect((await statusOf(vm.record.pid)).get('Uid')).toBe('0\t0\t0\t0');
  expect((await lstat(join(vm.record.dir, 'root.img'))).isSymbolicLink()).toBe(true);
  expect(await readdir(join(bench.dir, 'plain'))).toEqual(['memory']);
});

test.each<[string[], RegExp]>([
  [['--node', '0'], /Found argument '--node' which wasn't expected/],
  [['--uid', '7'], /The argument 'uid' was provided more than once/],
  [['--netns'], /The argument 'netns' requires a value/],
  [['--resource-limit', 'memory=1'], /Invalid resource argument: memory/],
  [['--netns', '/nowhere'], /Failed to join network namespace \/nowhere/],
  [['--exec-file', '/bin/true'], /The argument 'exec-file' was provided more than once/],
])('the stand-in refuses %j as the real jailer does', (more, words) => {
  const { status, stderr } = jail(more);
  expect(status).toBe(1);
  expect(stderr).toMatch(words);
});

test('the stand-in puts a program into a process namespace on request', async () => {
  const limits = ['--resource-limit', 'no-file=64', '--resource-limit', 'fsize=4096'];
  expect(jail(['--new-pid-ns', '--daemonize', '--netns', '/proc/self/ns/net', ...limits])).toMatchObject({ status: 0 });
  const root = join(bench.dir, 'firecracker/direct/root');
  const pid = Number(await readFile(join(root, 'firecracker.pid'), 'utf8'));
  const startTicks = (await readStartTicks(pid)) ?? 0;
  try {
    await expect.poll(() => readFile(`/proc/${pid}/cmdline`, 'utf8')).toMatch(/^\/firecracker\0--id\0direct\0/);
    const status = await statusOf(pid);
    expect(status.get('NSpid')).toBe(`${pid}\t1`);
    expect(status.get('Uid')).toBe('1001\t1001\t1001\t1001');
    expect(status.get('Gid')).toBe('1002\t1002\t1002\t1002');
    const limitsOf = await readFile(`/proc/${pid}/limits`, 'utf8');
    expect(limitsOf).toMatch(/^Max open files +64 +64 /m);
    expect(limitsOf).toMatch(/^Max file size +4096 +4096 /m);
    expect(await readlink(`/proc/${pid}/fd/1`)).toBe('/dev/null');
  } finally {
    await killProcess({ pid, startTicks });
  }
});

/** Starts the stand-in by itself, and gives what became of it. */
function jail(more: string[]) {
  const own = ['--id', 'direct', '--exec-file', bench.program, '--uid', '1001', '--gid', '1002'];
  const args = [...own, '--chroot-base-dir', bench.dir, ...more, '--', '--api-sock', 'api.sock'];
  return spawnSync(join(bench.dir, 'bin/jailer'), args, { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] });
}

/** For a program that is to be the user of a VM. */
function as({ vmRoot }: FirecrackerVm): { uid: number; gid: number } {
  if (vmRoot.user === null) throw new Error('it is not jailed');
  return { uid: vmRoot.user, gid: vmRoot.user };
}
