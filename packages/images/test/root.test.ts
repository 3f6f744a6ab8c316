// Proves that every kind of source becomes the root it describes: files, owners, links, whiteouts and config, read back
// from the image itself; that results are reproducible and cached; and that failures and aborts are clear and leave nothing.
import { mkdir, readFile, readdir, readlink, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { buildRoot } from '../src/index.ts';
import type { BuildRootOptions } from '../src/index.ts';
import {
  must,
  open,
  scratchDir,
  sharedCache,
  startRegistry,
  tinyRoot,
  twoLayerConfig,
  twoLayerImage,
} from './support.ts';

async function build(dir: string, source: string, more: Partial<BuildRootOptions> = {}) {
  return buildRoot({ source, cacheDir: path.join(dir, 'cache'), ...more });
}

/** What is left in the work area: nothing, whatever happened. */
async function leftovers(dir: string): Promise<string[]> {
  return readdir(path.join(dir, 'cache/tmp')).catch(() => []);
}

async function expectTwoLayers(erofs: string, dir: string): Promise<void> {
  const { root, mounted } = open(erofs, dir);
  expect(await readFile(path.join(root, 'etc/motd'), 'utf8')).toBe('second\n');
  expect(await readFile(path.join(root, 'etc/motd-again'), 'utf8')).toBe('first\n');
  expect((await readdir(path.join(root, 'data'))).toSorted()).toEqual(['old']);
  expect(await readdir(path.join(root, 'data/old'))).toEqual(['b']);
  if (mounted) expect((await stat(path.join(root, 'bin/hello'))).mode & 0o7777).toBe(0o4755);
}

describe('a directory', () => {
  test('becomes the same tree, with mount points added to the copy only', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    const made = await build(dir, source);
    const { root } = open(made.erofs, dir);
    expect((await readdir(root)).toSorted()).toEqual(['bin', 'data', 'dev', 'etc', 'proc', 'run', 'sys', 'tmp']);
    expect((await readdir(source)).toSorted()).toEqual(['bin', 'data', 'etc']);
    expect(await readlink(path.join(root, 'etc/link'))).toBe('../bin/hello');
    const file = await stat(path.join(root, 'data/old/a'));
    expect([file.uid, file.size]).toEqual([1234, 10_000]);
    expect(await readFile(path.join(root, 'etc/hosts'), 'utf8')).toContain('127.0.0.1\tlocalhost');
    expect((await stat(made.erofs)).size).toBe(made.sizeBytes);
    expect(made.digest).toBe(`sha256:${must('sha256sum', [made.erofs]).slice(0, 64)}`);
    expect(await leftovers(dir)).toEqual([]);
  });

  test('gives the same digest again, and from a copy; another when a file changes', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    const { digest } = await build(dir, source);
    const copy = path.join(dir, 'copy');
    must('cp', ['-a', source, copy]);
    expect((await build(dir, `dir:${copy}`)).digest).toBe(digest);
    await writeFile(path.join(source, 'etc/motd'), 'changed\n');
    expect((await build(dir, source)).digest).not.toBe(digest);
  });

  test('is not followed out of by a link where a file would be added', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    const outside = path.join(dir, 'outside');
    await mkdir(outside);
    await rm(path.join(source, 'etc'), { recursive: true });
    await symlink(outside, path.join(source, 'etc'));
    await build(dir, source);
    expect(await readdir(outside)).toEqual([]);
  });

  test('that holds the cache is refused', async () => {
    const dir = await scratchDir();
    await expect(build(dir, dir)).rejects.toMatchObject({ code: 'not_a_rootfs' });
  });
});

describe('a container image', () => {
  test('in an OCI layout: layers, whiteouts and config come out right, once', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    const made = await build(dir, layout);
    expect(made.config).toEqual(twoLayerConfig);
    await expectTwoLayers(made.erofs, dir);
    const lines: string[] = [];
    const again = await build(dir, `oci:${layout}:tiny`, { onProgress: (line) => lines.push(line) });
    expect(again).toMatchObject({ digest: made.digest, config: made.config });
    expect(lines.join()).toContain('already made');
    expect((await build(dir, layout, { noCache: true })).digest).toBe(made.digest);
  });

  test('in a layout of several must be named', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    must('umoci', ['config', '--image', `${layout}:tiny`, '--tag', 'second', '--config.user=7']);
    await expect(build(dir, layout)).rejects.toMatchObject({ code: 'bad_image', message: /holds 2 images: .*second/ });
    expect((await build(dir, `oci:${layout}:second`)).config.user).toBe('7');
    await expect(build(dir, `oci:${layout}:third`)).rejects.toMatchObject({ message: /no image 'third'/ });
  });

  test('in a tarball of docker save, at a path with a colon', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    const archive = path.join(dir, 'saved.tar');
    must('skopeo', ['copy', '--quiet', `oci:${layout}:tiny`, `docker-archive:${archive}:name/tiny:1`]);
    const renamed = path.join(dir, 'saved:1.tar');
    must('mv', [archive, renamed]);
    const made = await build(dir, renamed);
    expect(made.config).toEqual(twoLayerConfig);
    await expectTwoLayers(made.erofs, dir);
  });

  test('with zstd layers', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    const zstd = path.join(dir, 'zstd');
    must('skopeo', ['copy', '--quiet', '--dest-compress-format=zstd', `oci:${layout}:tiny`, `oci:${zstd}:tiny`]);
    await expectTwoLayers((await build(dir, zstd)).erofs, dir);
  });

  test('in a real registry: pulled by tag and by digest, not pulled twice, seen when the tag moves', async (context) => {
    const dir = await scratchDir();
    const host = await startRegistry(dir);
    if (host === null) return context.skip('docker-registry is not on this machine (npm test fetches it)');
    const layout = await twoLayerImage(dir);
    const push = () =>
      must('skopeo', ['copy', '--quiet', '--dest-tls-verify=false', `oci:${layout}:tiny`, `docker://${host}/t/tiny:1`]);
    push();
    const made = await build(dir, `${host}/t/tiny:1`);
    expect(made.config).toEqual(twoLayerConfig);
    await expectTwoLayers(made.erofs, dir);
    const lines: string[] = [];
    await build(dir, `docker://${host}/t/tiny:1`, { onProgress: (line) => lines.push(line) });
    expect(lines.join()).not.toContain('pulling');
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
  ])('%s is %s, in words, with what to do', async (source, code) => {
    const dir = await scratchDir();
    const error = await build(dir, source).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ name: 'ImageError', code, hint: /\w+/ });
    expect((error as Error).message).toContain(source.replace(/^(oci|recipe):|:latest$/g, '').replace('./', ''));
    expect(await leftovers(dir)).toEqual([]);
  });

  test('an empty directory, a truncated tarball and a damaged layer are told', async () => {
    const dir = await scratchDir();
    const empty = path.join(dir, 'empty');
    await mkdir(empty);
    await expect(build(dir, empty)).rejects.toMatchObject({ code: 'not_a_rootfs', message: /it is empty/ });
    const layout = await twoLayerImage(dir);
    const archive = path.join(dir, 'saved.tar');
    must('skopeo', ['copy', '--quiet', `oci:${layout}:tiny`, `docker-archive:${archive}:tiny:1`]);
    await truncate(archive, 9000);
    await expect(build(dir, archive)).rejects.toMatchObject({ code: 'bad_image' });
    const blobs = path.join(layout, 'blobs/sha256');
    for (const blob of await readdir(blobs)) {
      const file = path.join(blobs, blob);
      if ((await readFile(file)).subarray(0, 2).equals(Buffer.from([0x1f, 0x8b]))) await truncate(file, 40);
    }
    await expect(build(dir, layout)).rejects.toMatchObject({ code: 'bad_image' });
    expect(await leftovers(dir)).toEqual([]);
  });

  // The first does not hold the tree, the second not the image as well.
  test.for(['300k', '2600k'])('a disk of %s that is full is called that', async (size, context) => {
    const dir = await scratchDir();
    const cacheDir = path.join(dir, 'small');
    await mkdir(cacheDir);
    try {
      must('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', cacheDir]);
    } catch {
      return context.skip('this host does not let the test mount a small tmpfs');
    }
    try {
      const failed = await buildRoot({ source: 'recipe:busybox', cacheDir }).catch((reason: unknown) => reason);
      expect(failed).toMatchObject({ code: 'disk_full', message: expect.stringContaining(cacheDir) as string });
      expect(await readdir(path.join(cacheDir, 'tmp'))).toEqual([]);
    } finally {
      must('umount', [cacheDir]);
    }
  });

  test('without root an image is refused, before anything is fetched', async () => {
    const dir = await scratchDir();
    const layout = await twoLayerImage(dir);
    const getuid = vi.spyOn(process, 'getuid').mockReturnValue(1000);
    try {
      await expect(build(dir, layout)).rejects.toMatchObject({ code: 'needs_root', hint: /sudo/ });
    } finally {
      getuid.mockRestore();
    }
  });

  test('a program that is not there is named with its package', async () => {
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
  test('busybox is a root of one static program, the same each time', async () => {
    const dir = await scratchDir();
    const made = await build(dir, 'busybox');
    const { root } = open(made.erofs, dir);
    expect(must('chroot', [root, '/bin/sh', '-c', 'echo $((6*7)); ls /proc | wc -l']).trim()).toBe('42\n0');
    expect((await build(dir, 'recipe:busybox', { noCache: true })).digest).toBe(made.digest);
  });

  test('python imports numpy, from compiled files', async () => {
    const made = await buildRoot({ source: 'recipe:python', cacheDir: sharedCache });
    const dir = await scratchDir();
    const { root } = open(made.erofs, dir);
    const version = must('chroot', [root, 'python3', '-v', '-c', 'import numpy, sys; print(numpy.zeros(3).sum())']);
    expect(version.trim()).toBe('0.0');
    const stale =
      'import py_compile,importlib.util as u,os,struct;p=os.__file__;' +
      'print(struct.unpack("<I",open(u.cache_from_source(p),"rb").read()[8:12])[0]-int(os.stat(p).st_mtime))';
    expect(must('chroot', [root, 'python3', '-c', stale]).trim()).toBe('0');
    expect((await readdir(path.join(root, 'etc'))).includes('resolv.conf')).toBe(false);
  });

  test("a path of a recipe's name wins, and says so", async () => {
    const dir = await scratchDir();
    const lines: string[] = [];
    const before = process.cwd();
    must('mv', [await tinyRoot(dir), path.join(dir, 'busybox')]);
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
  test('before the start does nothing', async () => {
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
