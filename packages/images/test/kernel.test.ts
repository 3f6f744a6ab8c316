/**
 * Proves that the kernel is fetched once, that its modules are complete and in an order that loads, and that the initramfs
 * follows the agent. Uses this machine's apt the first time; the result stays in the tests' cache.
 */
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { moduleInfo } from '../src/elf.ts';
import { ensureInitramfs, ensureKernel } from '../src/index.ts';
import { loadModules } from '../src/modules.ts';
import { must, scratchDir, sharedCache } from './support.ts';

const STATIC_PROGRAM = '/bin/busybox';

describe('the distribution kernel', () => {
  test('is fetched once, and then taken from the cache', async () => {
    const first = await ensureKernel({ cacheDir: sharedCache });
    const lines: string[] = [];
    const second = await ensureKernel({ cacheDir: sharedCache, onProgress: (line) => lines.push(line) });
    expect(second).toEqual(first);
    expect(lines).toEqual([]);
    const own = await ensureKernel({ cacheDir: sharedCache, kernelFile: first.vmlinuz });
    expect(own).toEqual({ vmlinuz: first.vmlinuz, version: first.version, modulesDir: null });
  });

  test('is not served when it has changed on disk', async () => {
    const { vmlinuz, version } = await ensureKernel({ cacheDir: sharedCache });
    const cacheDir = await scratchDir();
    const home = join(cacheDir, 'kernels', version);
    await mkdir(home, { recursive: true });
    must('cp', ['-r', dirname(vmlinuz), join(sharedCache, 'kernels/resolved.json'), dirname(home)]);
    const found = await ensureKernel({ cacheDir });
    expect(found.vmlinuz).toBe(join(home, 'vmlinuz'));
    await writeFile(join(home, 'modules/modules.builtin'), 'ROT', { flag: 'a' });
    const lines: string[] = [];
    // A host that cannot reach apt has no package, rather than a damaged one.
    const again = await ensureKernel({ cacheDir, onProgress: (line) => lines.push(line) }).catch(() => null);
    expect(lines[0]).toMatch(/has changed on disk/);
    if (again !== null) expect((await readFile(again.vmlinuz)).equals(await readFile(vmlinuz))).toBe(true);
  }, 120_000);

  test('lists every module after its dependencies', async () => {
    const { modulesDir } = await ensureKernel({ cacheDir: sharedCache });
    const modules = await loadModules(modulesDir!, { vsock: true });
    const builtIn = await readFile(join(modulesDir!, 'modules.builtin'), 'utf8');
    const loaded = new Set<string>();
    for (const { name, data } of modules) {
      const depends = moduleInfo(data, 'depends')
        .flatMap((list) => list.split(','))
        .filter(Boolean);
      for (const dependency of depends.map((entry) => entry.replaceAll('-', '_'))) {
        expect(loaded.has(dependency) || builtIn.includes(`/${dependency}.ko`), `${name} needs ${dependency}`).toBe(
          true,
        );
      }
      loaded.add(name);
    }
    expect([...loaded]).toEqual(expect.arrayContaining(['virtio_blk', 'virtio_console', 'erofs', 'overlay']));
    const plain = (await loadModules(modulesDir!)).map(({ name }) => name);
    expect([...loaded].filter((name) => !plain.includes(name))).toEqual([
      'vsock',
      'vmw_vsock_virtio_transport_common',
      'vmw_vsock_virtio_transport',
    ]);
  });

  test.each([
    ['xz', ['-k', '--check=crc32']],
    ['zstd', ['-q', '-k']],
    ['gzip', ['-k']],
  ])('takes modules compressed by %s', async (program, args) => {
    const { modulesDir } = await ensureKernel({ cacheDir: sharedCache });
    const dir = await scratchDir();
    must('cp', ['-r', `${modulesDir!}/.`, dir]);
    for (const file of ['drivers/virtio/virtio.ko', 'fs/erofs/erofs.ko']) {
      must(program, [...args, join(dir, 'kernel', file)]);
      must('rm', [join(dir, 'kernel', file)]);
    }
    const [plain, unpacked] = [await loadModules(modulesDir!), await loadModules(dir)];
    expect(unpacked.map(({ name, data }) => [name, data.length])).toEqual(
      plain.map(({ name, data }) => [name, data.length]),
    );
  });
});

test.each([
  ['/nowhere/vmlinuz', 'bad_kernel'],
  [`/${'long'.repeat(100)}`, 'bad_kernel'],
  ['/etc/passwd', 'bad_kernel'],
  ['/etc', 'bad_kernel'],
])('refuses %s as a kernel', async (kernelFile, code) => {
  await expect(ensureKernel({ cacheDir: sharedCache, kernelFile })).rejects.toMatchObject({ code });
});

describe('the initramfs', () => {
  test('has the agent as /init and lists modules that it holds', async () => {
    const cacheDir = await scratchDir();
    const kernel = await ensureKernel({ cacheDir: sharedCache });
    const file = await ensureInitramfs({ cacheDir, kernel, agentBinary: STATIC_PROGRAM });
    const out = await scratchDir();
    must('cpio', ['-i', '--quiet'], { cwd: out, input: await readFile(file) });
    expect(Buffer.compare(await readFile(join(out, 'init')), await readFile(STATIC_PROGRAM))).toBe(0);
    const list = (await readFile(join(out, 'forkd/modules'), 'utf8')).trimEnd().split('\n');
    expect(list.length).toBeGreaterThan(5);
    for (const module of list) expect((await readFile(join(out, module))).length).toBeGreaterThan(0);
  });

  test('is rebuilt only when its inputs change', async () => {
    const cacheDir = await scratchDir();
    const kernel = { vmlinuz: '/dev/null', version: 'own', modulesDir: null };
    const agentBinary = join(cacheDir, 'agent');
    await copyFile(STATIC_PROGRAM, agentBinary);
    const first = await ensureInitramfs({ cacheDir, kernel, agentBinary });
    expect(await ensureInitramfs({ cacheDir, kernel, agentBinary })).toBe(first);
    await writeFile(agentBinary, Buffer.concat([await readFile(STATIC_PROGRAM), Buffer.from('new')]));
    expect(await ensureInitramfs({ cacheDir, kernel, agentBinary })).not.toBe(first);
  });

  test.each(['/nowhere/agent', '/etc/passwd', process.execPath])('refuses %s as an agent', async (agentBinary) => {
    const kernel = { vmlinuz: '/dev/null', version: 'own', modulesDir: null };
    const cacheDir = await scratchDir();
    await expect(ensureInitramfs({ cacheDir, kernel, agentBinary })).rejects.toMatchObject({ code: 'bad_agent' });
  });
});
