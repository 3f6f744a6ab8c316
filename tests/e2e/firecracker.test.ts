/**
 * A guest under Firecracker, from its boot to its restored children, with the real agent over vsock and the real pager. The
 * same steps are taken with the stand-in, whose agent is a process of this host, and with a real `firecracker`, where one is
 * on PATH and KVM runs guests here. Only a real guest can show that a child remembers: the stand-in executes nothing.
 */
import { spawnSync } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { FirecrackerEngine, type KernelFiles, Pager, tryKvm, type Vm } from '@forkd/engine';
import { GuestAgent } from '@forkd/guest';
import { buildRoot, ensureInitramfs, ensureKernel } from '@forkd/images';
import { BUILT, requireBuilt, sh, TEST_CACHE } from '@forkd/testing';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

const PATH_BEFORE = process.env['PATH'] ?? '';
const MEM_MIB = 128;
const FAMILY = ['parent', 'child', 'grandchild'];

let dir: string;
let pager: Pager;
const vms: Vm[] = [];

beforeEach(async () => {
  await requireBuilt();
  dir = await mkdtemp('/tmp/fk-');
  pager = await Pager.ensure({ bin: BUILT.pager, runDir: join(dir, 'run'), storeDir: join(dir, 'store') });
});

afterEach(async () => {
  process.env['PATH'] = PATH_BEFORE;
  await Promise.all(vms.splice(0).map((vm) => vm.kill()));
  await pager.shutdown();
  await rm(dir, { recursive: true, force: true });
});

function agentOf(vm: Vm): Promise<GuestAgent> {
  return GuestAgent.connect(vm.agentSocket, { vsockPort: vm.agentPort ?? undefined, timeoutMs: 60_000 });
}

interface Files {
  kernel: KernelFiles;
  rootImage: string;
}

/** Boot, a full branch, a child, its difference, a grandchild. Gives what each answers over its own socket. */
async function lives({ kernel, rootImage }: Files, remembers: boolean): Promise<string[]> {
  const engine = await FirecrackerEngine.create({ dir: join(dir, 'engine') });
  const place = (id: string) => ({ id, dir: join(dir, id), rootImage, pager });
  const parent = await engine.boot({ ...place('parent'), memMib: MEM_MIB, vcpus: 1, kernel });
  vms.push(parent);
  const agent = await agentOf(parent);
  if (remembers) await sh(agent, 'echo parent > /tmp/mark');
  const answers = [await sh(agent, 'echo parent')];

  const base = await parent.branch({ mode: 'full', resume: true });
  // A snapshot cuts off what is connected; the parent takes the next connection.
  await agent.closed;
  await using again = await agentOf(parent);
  expect(await sh(again, 'echo still there')).toBe('still there');

  let from = base;
  for (const id of ['child', 'grandchild']) {
    const stack = from.stack.map(({ digest }) => digest);
    const deviceState = join(dir, 'store/blobs/sha256', from.device_state.digest.slice('sha256:'.length));
    const vm = await engine.restore({ ...place(id), machine: parent.record.machine, stack, deviceState });
    vms.push(vm);
    await using own = await agentOf(vm);
    if (remembers) {
      expect(await sh(own, 'cat /tmp/mark')).toBe(id === 'child' ? 'parent' : 'child');
      await sh(own, `echo ${id} > /tmp/mark`);
    }
    answers.push(await sh(own, `echo ${id}`));
    from = await vm.branch({ mode: 'diff', resume: true });
    expect(from.stack.slice(0, stack.length).map(({ digest }) => digest)).toEqual(stack);
  }
  return answers;
}

/** The ELF file of the distribution's kernel: 64 bits, executable, x86-64, with its name. */
async function expectUnpacked(kernels: string): Promise<void> {
  const [name, ...others] = await readdir(kernels);
  expect([name, others]).toEqual([expect.any(String), []]);
  const kernel = await readFile(join(kernels, name ?? ''));
  expect(kernel.subarray(0, 5)).toEqual(Buffer.from('\x7fELF\x02', 'latin1'));
  expect(kernel.readUInt16LE(18)).toBe(62);
  expect(kernel.includes('Linux version ')).toBe(true);
}

describe('a guest under Firecracker', () => {
  test('passes its life cycle with the stand-in', async () => {
    const bin = join(dir, 'bin');
    await mkdir(bin);
    await copyFile(BUILT.firecrackerStandIn, join(bin, 'firecracker'));
    await writeFile(join(bin, 'stand-in.json'), JSON.stringify({ agent: BUILT.agent }));
    process.env['PATH'] = `${bin}${delimiter}${PATH_BEFORE}`;
    const { vmlinuz } = await ensureKernel({ cacheDir: TEST_CACHE });
    // The rest are files of the right kind, which are never executed.
    const files = { kernel: { vmlinuz, initramfs: BUILT.agent }, rootImage: BUILT.agent };
    expect(await lives(files, false)).toEqual(FAMILY);
    await expectUnpacked(join(dir, 'engine/kernels'));
  });

  test('passes its life cycle with a real firecracker', async ({ skip }) => {
    const found = spawnSync('firecracker', ['--version']);
    skip(found.error !== undefined, 'there is no firecracker on PATH');
    const kernel = await ensureKernel({ cacheDir: TEST_CACHE });
    const options = { cacheDir: TEST_CACHE, kernel, agentBinary: BUILT.agent, vsock: true };
    const files = { vmlinuz: kernel.vmlinuz, initramfs: await ensureInitramfs(options) };
    skip(!(await tryKvm('qemu-system-x86_64', files)).runs, 'KVM runs no guests here');
    const root = await buildRoot({ source: 'busybox', cacheDir: TEST_CACHE });
    expect(await lives({ kernel: files, rootImage: root.erofs }, true)).toEqual(FAMILY);
  });
});
