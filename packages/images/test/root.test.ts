/**
 * Proves that every kind of source becomes the root it describes: files, owners, links, whiteouts and config, read back from
 * the image itself; that results are reproducible and cached; and that failures and aborts are clear and leave nothing.
 */
import {
  mkdir,
  open as openFile,
  readFile,
  readdir,
  readlink,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { ImageLayout, oneImage, tarOf, type ImageDescriptor } from '@forkd/testing';
import { describe, expect, test, vi } from 'vitest';
import { buildRoot, type BuildRootOptions, type ImageError } from '../src/index.ts';
import { resolveSource } from '../src/source.ts';
import {
  must,
  open,
  pushForPlatforms,
  scratchDir,
  sharedCache,
  startRegistry,
  tinyRoot,
  twoLayerConfig,
  twoLayerImage,
} from './support.ts';

async function build(dir: string, source: string, more: Partial<BuildRootOptions> = {}) {
  return buildRoot({ source, cacheDir: join(dir, 'cache'), ...more });
}

/** What is left in the work area: nothing, whatever happened. */
async function leftovers(dir: string): Promise<string[]> {
  return readdir(join(dir, 'cache/tmp')).catch(() => []);
}

async function expectTwoLayers(erofs: string, dir: string): Promise<void> {
  const { root, mounted } = open(erofs, dir);
  expect(await readFile(join(root, 'etc/motd'), 'utf8')).toBe('second\n');
  expect(await readFile(join(root, 'etc/motd-again'), 'utf8')).toBe('first\n');
  expect((await readdir(join(root, 'data'))).toSorted()).toEqual(['old']);
  expect(await readdir(join(root, 'data/old'))).toEqual(['b']);
  if (mounted) expect((await stat(join(root, 'bin/hello'))).mode & 0o7777).toBe(0o4755);
}

describe('a directory', () => {
  test('becomes the same tree, with mount points added only to the copy', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    const made = await build(dir, source);
    const { root } = open(made.erofs, dir);
    expect((await readdir(root)).toSorted()).toEqual(['bin', 'data', 'dev', 'etc', 'proc', 'run', 'sys', 'tmp']);
    expect((await readdir(source)).toSorted()).toEqual(['bin', 'data', 'etc']);
    expect(await readlink(join(root, 'etc/link'))).toBe('../bin/hello');
    const file = await stat(join(root, 'data/old/a'));
    expect([file.uid, file.size]).toEqual([1234, 10_000]);
    expect(await readFile(join(root, 'etc/hosts'), 'utf8')).toContain('127.0.0.1\tlocalhost');
    expect((await stat(made.erofs)).size).toBe(made.sizeBytes);
    expect(made.digest).toBe(`sha256:${must('sha256sum', [made.erofs]).slice(0, 64)}`);
    expect(await leftovers(dir)).toEqual([]);
  });

  test('keeps its digest when copied, and changes it with any file', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    const { digest } = await build(dir, source);
    const copy = join(dir, 'copy');
    must('cp', ['-a', source, copy]);
    expect((await build(dir, `dir:${copy}`)).digest).toBe(digest);
    await writeFile(join(source, 'etc/motd'), 'changed\n');
    expect((await build(dir, source)).digest).not.toBe(digest);
  });

  test('is never left through a symlink at the path of an added file', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    const outside = join(dir, 'outside');
    await mkdir(outside);
    await rm(join(source, 'etc'), { recursive: true });
    await symlink(outside, join(source, 'etc'));
    await build(dir, source);
    expect(await readdir(outside)).toEqual([]);
  });

  test('is refused when it contains the cache', async () => {
    const dir = await scratchDir();
    await expect(build(dir, dir)).rejects.toMatchObject({ code: 'not_a_rootfs' });
  });
});

describe('a container image', () => {
  test('in an OCI layout is unpacked once, with its layers, whiteouts and config', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    const lines: string[] = [];
    const made = await build(dir, layout, { onProgress: (line) => lines.push(line) });
    expect(lines).toEqual(expect.arrayContaining(['root: reading layer 1 of 2', 'root: reading layer 2 of 2']));
    expect(made.config).toEqual(twoLayerConfig);
    await expectTwoLayers(made.erofs, dir);
    const again = await build(dir, `oci:${layout}:tiny`, { onProgress: (line) => lines.push(line) });
    expect(again).toMatchObject({ digest: made.digest, config: made.config });
    expect(lines.join()).toContain('already made');
    expect((await build(dir, layout, { noCache: true })).digest).toBe(made.digest);
  });

  test('in a layout of several images must be named', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    must('umoci', ['config', '--image', `${layout}:tiny`, '--tag', 'second', '--config.user=7']);
    await expect(build(dir, layout)).rejects.toMatchObject({ code: 'bad_image', message: /holds 2 images: .*second/ });
    expect((await build(dir, `oci:${layout}:second`)).config.user).toBe('7');
    await expect(build(dir, `oci:${layout}:third`)).rejects.toMatchObject({ message: /no image 'third'/ });
  });

  test('in a tarball of docker save is read, even at a path with a colon', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    const archive = join(dir, 'saved.tar');
    must('skopeo', ['copy', '--quiet', `oci:${layout}:tiny`, `docker-archive:${archive}:name/tiny:1`]);
    const renamed = join(dir, 'saved:1.tar');
    must('mv', [archive, renamed]);
    const made = await build(dir, renamed);
    expect(made.config).toEqual(twoLayerConfig);
    await expectTwoLayers(made.erofs, dir);
  });

  test('with zstd layers is read', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    const zstd = join(dir, 'zstd');
    must('skopeo', ['copy', '--quiet', '--dest-compress-format=zstd', `oci:${layout}:tiny`, `oci:${zstd}:tiny`]);
    await expectTwoLayers((await build(dir, zstd)).erofs, dir);
  });

  test('in a tarball of an OCI layout is read, compressed or not, by its path and by its name', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    const [plain, packed] = [join(dir, 'plain.tar'), join(dir, 'packed.tar.gz')];
    must('tar', ['-cf', plain, '-C', layout, '.']);
    must('tar', ['-czf', packed, '-C', layout, '.']);
    const made = await build(dir, plain);
    expect(made.config).toEqual(twoLayerConfig);
    await expectTwoLayers(made.erofs, dir);
    expect((await build(dir, packed)).digest).toBe(made.digest);
    expect((await build(dir, `oci-archive:${packed}:tiny`)).digest).toBe(made.digest);
    const other = build(dir, `oci-archive:${packed}:other`);
    await expect(other).rejects.toMatchObject({ message: /no image 'other'; it has tiny/ });
  });

  test('as the tarball of a root, which docker export writes, becomes that root', async () => {
    const dir = await scratchDir();
    const archive = join(dir, 'root.tar.zst');
    must('tar', ['--zstd', '-cf', archive, '-C', await tinyRoot(dir), '.']);
    const made = await build(dir, archive);
    expect(made.config).toEqual({ env: {}, workdir: '/', user: 'root', entrypoint: [], cmd: [] });
    expect(await readFile(join(open(made.erofs, dir).root, 'etc/motd'), 'utf8')).toBe('first\n');
    must('tar', ['-cf', archive, '-C', join(dir, 'tiny'), 'etc']);
    await expect(build(dir, archive)).rejects.toMatchObject({ code: 'not_a_rootfs', message: /it has etc/ });
  });

  test('for several platforms is that of guests, also in an index of indexes and beside records of the build', async () => {
    const dir = await scratchDir();
    const layout = new ImageLayout(join(dir, 'platforms'));
    const layer = tarOf([{ path: 'bin/x' }]);
    const on = (image: ImageDescriptor, architecture: string) => ({
      ...image,
      platform: { os: 'linux', architecture },
    });
    const arm = on(await layout.image([], { User: 'arm' }, 'arm64'), 'arm64');
    const amd = on(await layout.image([layer], { User: 'amd' }), 'amd64');
    const record = {
      ...(await layout.image([], {})),
      annotations: { 'vnd.docker.reference.type': 'attestation-manifest' },
    };
    await rm(join(layout.dir, 'blobs', ...arm.digest.split(':')));
    await layout.finish(await layout.index([arm, amd, record]));
    expect((await build(dir, layout.dir)).config.user).toBe('amd');
    await layout.finish(arm, amd);
    expect((await build(dir, layout.dir)).config.user).toBe('amd');
    await layout.finish(arm);
    await expect(build(dir, layout.dir)).rejects.toMatchObject({
      code: 'bad_image',
      message: expect.stringMatching(/is for linux\/arm64, and guests are linux\/amd64/) as string,
    });
    // The index need not say it.
    await layout.finish(await layout.image([layer], {}, 'riscv64'));
    await expect(build(dir, layout.dir)).rejects.toThrow(/is for linux\/riscv64/);
  });

  test.each([
    undefined,
    null,
    {},
    { Env: null, Cmd: null, Entrypoint: 'x', WorkingDir: 7, User: '' },
    { Env: [1, '=a'] },
  ])('that says %j of its programs has the default', async (config) => {
    const dir = await scratchDir();
    const source = await oneImage(join(dir, 'image'), [tarOf([{ path: 'x' }])], config);
    expect((await build(dir, source)).config).toEqual({ env: {}, workdir: '/', user: 'root', entrypoint: [], cmd: [] });
  });

  test('with names that are not UTF-8 keeps them', async () => {
    const dir = await scratchDir();
    const layers = [
      tarOf([{ path: 'caf\xe9.txt', data: Buffer.from('x') }, { path: 'gone\xff' }]),
      tarOf([{ path: '.wh.gone\xff' }], 'gnu'),
    ];
    const made = await build(dir, await oneImage(join(dir, 'image'), layers));
    const names = await readdir(open(made.erofs, dir).root, { encoding: 'latin1' });
    expect(names.toSorted()).toEqual(['caf\xe9.txt', 'dev', 'etc', 'proc', 'run', 'sys', 'tmp']);
  });

  test('with a name of 255 bytes is made, or refused by the name of the file', async () => {
    const dir = await scratchDir();
    const name = 'n'.repeat(255);
    const made = build(dir, await oneImage(join(dir, 'image'), [tarOf([{ path: `d/${name}` }])]));
    const said = await made.then(
      async ({ erofs }) => `/d/${(await readdir(join(open(erofs, dir).root, 'd')))[0]}`,
      (error: ImageError) => `${error.code}: ${error.message}`,
    );
    expect(said).toContain(`/d/${name}`);
    expect(said).toMatch(/^(\/d\/n+$|bad_image: The mkfs\.erofs of this machine cuts off names)/);
  });

  test('of which a blob is damaged or missing is refused, and the blob is named', async () => {
    const dir = await scratchDir();
    const source = await oneImage(join(dir, 'image'), [tarOf([{ path: 'x' }])]);
    const { manifests } = JSON.parse(await readFile(join(source, 'index.json'), 'utf8')) as {
      manifests: ImageDescriptor[];
    };
    const blob = (digest: string) => join(source, 'blobs', ...digest.split(':'));
    const manifest = JSON.parse(await readFile(blob(manifests[0]!.digest), 'utf8')) as {
      layers: ImageDescriptor[];
      config: ImageDescriptor;
    };
    const layer = manifest.layers[0]!.digest;
    const data = await readFile(blob(layer));
    await writeFile(blob(layer), Buffer.concat([data, Buffer.from([0])]));
    await expect(build(dir, source)).rejects.toMatchObject({
      code: 'bad_image',
      message: expect.stringContaining(`${layer} is damaged`) as string,
    });
    await rm(blob(layer));
    await expect(build(dir, source)).rejects.toThrow(`${layer} is missing`);
    await writeFile(blob(manifest.config.digest), 'null');
    await expect(build(dir, source)).rejects.toThrow(`${manifest.config.digest} is damaged`);
    await writeFile(join(source, 'index.json'), JSON.stringify({ manifests: [{ digest: '../../../etc/passwd' }] }));
    await expect(build(dir, source)).rejects.toThrow("'../../../etc/passwd' is not a SHA-256 digest");
  });

  test('in a real registry is pulled by tag and digest, only once, until the tag moves', async (context) => {
    const dir = await scratchDir();
    const host = await startRegistry(dir);
    if (host === null) return context.skip('docker-registry is not on this machine (npm test fetches it)');
    const layout = await twoLayerImage(dir);
    const push = () =>
      must('skopeo', ['copy', '--quiet', '--dest-tls-verify=false', `oci:${layout}:tiny`, `docker://${host}/t/tiny:1`]);
    push();
    const lines: string[] = [];
    const onProgress = (line: string) => lines.push(line);
    const made = await build(dir, `${host}/t/tiny:1`, { onProgress });
    expect(made.config).toEqual(twoLayerConfig);
    await expectTwoLayers(made.erofs, dir);
    expect(lines).toContain('root: pulled 2 of 2 layers, 0.0 MiB of 0.0 MiB');
    lines.length = 0;
    await build(dir, `docker://${host}/t/tiny:1`, { onProgress });
    expect(lines.join()).not.toContain('pulling');
    await pushForPlatforms(host, 't/tiny', ['arm64', 'amd64']);
    await build(dir, `${host}/t/tiny:platforms`, { onProgress });
    expect(lines.join()).toContain('pulled 2 of 2 layers');
    must('umoci', ['config', '--image', `${layout}:tiny`, '--config.user=42']);
    push();
    expect((await build(dir, `${host}/t/tiny:1`)).config.user).toBe('42');
    await expect(build(dir, `${host}/t/other:1`)).rejects.toMatchObject({
      code: 'image_unavailable',
      message: expect.stringContaining(`${host}/t/other:1`) as string,
    });
  });
});

describe('a broken source', () => {
  test.each([
    ['/nowhere', 'source_not_found'],
    ['./nowhere.tar', 'source_not_found'],
    ['oci:/nowhere:latest', 'source_not_found'],
    ['recipe:nothing', 'unknown_recipe'],
    ['/etc', 'not_a_rootfs'],
    ['127.0.0.1:1/no/registry:1', 'image_unavailable'],
    ['UPPER/case', 'image_unavailable'],
    ['oci:/etc', 'bad_image'],
    ['/etc/passwd', 'bad_image'],
  ])('is reported with a hint: %s is %s', async (source, code) => {
    const dir = await scratchDir();
    const error = await build(dir, source).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ name: 'ImageError', code, hint: /\w+/ });
    expect((error as Error).message).toContain(source.replace(/^(oci|recipe):|:latest$/g, '').replace('./', ''));
    expect(await leftovers(dir)).toEqual([]);
  });

  test('is reported for an empty directory, a truncated tarball and a damaged layer', async () => {
    const dir = await scratchDir();
    const empty = join(dir, 'empty');
    await mkdir(empty);
    await expect(build(dir, empty)).rejects.toMatchObject({ code: 'not_a_rootfs', message: /it is empty/ });
    const layout = await twoLayerImage(dir);
    const archive = join(dir, 'saved.tar');
    must('skopeo', ['copy', '--quiet', `oci:${layout}:tiny`, `docker-archive:${archive}:tiny:1`]);
    await truncate(archive, 9000);
    await expect(build(dir, archive)).rejects.toMatchObject({ code: 'bad_image' });
    const blobs = join(layout, 'blobs/sha256');
    for (const blob of await readdir(blobs)) {
      const file = join(blobs, blob);
      if ((await readFile(file)).subarray(0, 2).equals(Buffer.from([0x1f, 0x8b]))) await truncate(file, 40);
    }
    await expect(build(dir, layout)).rejects.toMatchObject({ code: 'bad_image' });
    expect(await leftovers(dir)).toEqual([]);
  });

  // The first does not hold the tree, the second not the image as well.
  test.for(['300k', '2600k'])('is told from a full disk of %s', async (size, context) => {
    const dir = await scratchDir();
    const cacheDir = join(dir, 'small');
    await mkdir(cacheDir);
    try {
      must('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', cacheDir]);
    } catch {
      return context.skip('this host does not let the test mount a small tmpfs');
    }
    try {
      const failed = await buildRoot({ source: 'recipe:busybox', cacheDir }).catch((reason: unknown) => reason);
      expect(failed).toMatchObject({ code: 'disk_full', message: expect.stringContaining(cacheDir) as string });
      expect(await readdir(join(cacheDir, 'tmp'))).toEqual([]);
    } finally {
      must('umount', [cacheDir]);
    }
  });

  test('is refused without root before anything is fetched', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    const getuid = vi.spyOn(process, 'getuid').mockReturnValue(1000);
    try {
      await expect(build(dir, layout)).rejects.toMatchObject({ code: 'needs_root', hint: /sudo/ });
    } finally {
      getuid.mockRestore();
    }
  });

  test('is told from a missing program, which is named with its package', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    const PATH = process.env.PATH;
    process.env.PATH = dir;
    try {
      await expect(build(dir, source)).rejects.toMatchObject({
        code: 'missing_program',
        hint: /apt-get install .*coreutils/,
      });
    } finally {
      process.env.PATH = PATH;
    }
  });
});

describe('recipes', () => {
  test('build busybox as a root of one static program, the same each time', async () => {
    const dir = await scratchDir();
    const made = await build(dir, 'busybox');
    const { root } = open(made.erofs, dir);
    expect(must('chroot', [root, '/bin/sh', '-c', 'echo $((6*7)); ls /proc | wc -l']).trim()).toBe('42\n0');
    expect((await build(dir, 'recipe:busybox', { noCache: true })).digest).toBe(made.digest);
  });

  test('build python with numpy, from compiled files', async () => {
    const made = await buildRoot({ source: 'recipe:python', cacheDir: sharedCache });
    const dir = await scratchDir();
    const { root } = open(made.erofs, dir);
    const version = must('chroot', [root, 'python3', '-v', '-c', 'import numpy, sys; print(numpy.zeros(3).sum())']);
    expect(version.trim()).toBe('0.0');
    const stale =
      'import py_compile,importlib.util as u,os,struct;p=os.__file__;' +
      'print(struct.unpack("<I",open(u.cache_from_source(p),"rb").read()[8:12])[0]-int(os.stat(p).st_mtime))';
    expect(must('chroot', [root, 'python3', '-c', stale]).trim()).toBe('0');
    expect((await readdir(join(root, 'etc'))).includes('resolv.conf')).toBe(false);
  });

  test("a directory of a recipe's name that holds neither a root nor an image is not meant", async () => {
    const dir = await scratchDir();
    const before = process.cwd();
    await mkdir(join(dir, 'busybox/src'), { recursive: true });
    await mkdir(join(dir, 'debian/lib'), { recursive: true });
    await symlink('nowhere', join(dir, 'python'));
    process.chdir(dir);
    try {
      expect((await resolveSource('busybox')).description).toContain('recipe busybox');
      // A root need not have /bin or /usr.
      expect((await resolveSource('debian')).description).toContain('directory ');
      await expect(resolveSource('python')).rejects.toThrow('a link to nowhere');
    } finally {
      process.chdir(before);
    }
  });

  test("a path of a recipe's name wins, and says so", async () => {
    const dir = await scratchDir();
    const lines: string[] = [];
    const before = process.cwd();
    must('mv', [await tinyRoot(dir), join(dir, 'busybox')]);
    process.chdir(dir);
    try {
      await build(dir, 'busybox', { onProgress: (line) => lines.push(line) });
    } finally {
      process.chdir(before);
    }
    expect(lines[0]).toMatch(/directory .*recipe:busybox/);
  });
});

describe('an abort', () => {
  test('before the start leaves nothing', async () => {
    const dir = await scratchDir();
    await expect(build(dir, 'busybox', { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
    expect(await readdir(dir)).toEqual([]);
  });

  test.each([300, 2_500])('%d ms into mmdebstrap ends it, and leaves no file, process or mount', async (afterMs) => {
    const dir = await scratchDir();
    const controller = new AbortController();
    const building = build(dir, 'recipe:debian', {
      signal: controller.signal,
      onProgress: (line) => {
        if (line.includes('mmdebstrap')) setTimeout(() => controller.abort(new Error('enough')), afterMs);
      },
    });
    await expect(building).rejects.toThrow('enough');
    expect(await leftovers(dir)).toEqual([]);
    expect(must('ps', ['-eo', 'args'])).not.toContain(dir);
    expect(await readFile('/proc/self/mountinfo', 'utf8')).not.toContain(dir);
  });
});

test('two builds of one source at once both succeed', async () => {
  const dir = await scratchDir();
  const layout = await twoLayerImage(dir);
  const [one, two] = await Promise.all([build(dir, layout), build(dir, layout)]);
  expect(one).toEqual(two);
});

describe('an image of the cache', () => {
  /** Writes into a file without changing its length. */
  async function damage(file: string): Promise<void> {
    const handle = await openFile(file, 'r+');
    await handle.write(Buffer.from('ROT'), 0, 3, 8192);
    await handle.close();
  }

  test('that has changed on disk is built again, with a message', async () => {
    const dir = await scratchDir();
    const first = await build(dir, 'recipe:busybox');
    const lines: string[] = [];
    const onProgress = (line: string) => void lines.push(line);
    expect(await build(dir, 'recipe:busybox', { onProgress })).toEqual(first);
    expect(lines.at(-1)).toMatch(/already made/);
    // Seen by its times, within one process; by its bytes, in the next, even where the times are as they were.
    for (const isNextProcess of [false, true]) {
      const { atime, mtime } = await stat(first.erofs);
      await damage(first.erofs);
      if (isNextProcess) {
        await utimes(first.erofs, atime, mtime);
        vi.resetModules();
      }
      const { buildRoot: buildAgain } = isNextProcess ? await import('../src/root.ts') : { buildRoot };
      const again = await buildAgain({ source: 'recipe:busybox', cacheDir: join(dir, 'cache'), onProgress });
      expect(again).toEqual(first);
      expect(must('sha256sum', [again.erofs]).slice(0, 64)).toBe(again.digest.slice('sha256:'.length));
      expect(lines.filter((line) => line.includes('has changed on disk')).length).toBe(isNextProcess ? 2 : 1);
    }
  });

  test('is on disk before it gets its name, and the name before it is returned', async () => {
    const dir = await scratchDir();
    const log = join(dir, 'calls');
    const program = `import { buildRoot } from '${new URL('../dist/index.js', import.meta.url).href}';
      await buildRoot({ source: 'recipe:busybox', cacheDir: '${join(dir, 'cache')}' });`;
    const node = [process.execPath, '--input-type=module', '-e', program];
    must('strace', ['-f', '-qq', '-y', '-e', 'trace=fsync,rename', '-o', log, ...node]);
    const calls = (await readFile(log, 'utf8')).split('\n').filter((line) => !line.includes('resumed'));
    const renamed = calls.findIndex((line) => /rename\(.*root\.erofs.*\.erofs"/.test(line));
    const synced = calls.findIndex((line) => /fsync\(.*root\.erofs>/.test(line));
    const named = calls.findIndex((line, index) => index > renamed && /fsync\(.*\/roots>/.test(line));
    expect([synced, renamed, named].every((at) => at >= 0)).toBe(true);
    expect(synced).toBeLessThan(renamed);
  });
});
