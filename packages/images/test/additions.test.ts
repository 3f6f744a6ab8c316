/**
 * Proves what a user adds to a root: copies land inside the root, wherever its links lead; Python packages are those for the Python and
 * the C library of the root; and whatever is wrong is told with what to do. The package index is a directory of wheels.
 */
import { spawnSync } from 'node:child_process';
import { chmod, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { type Additions, buildRoot } from '../src/index.ts';
import { must, open, scratchDir, tinyRoot } from './support.ts';

afterEach(() => void vi.unstubAllEnvs());

async function add(dir: string, source: string, additions: Partial<Additions>): Promise<string> {
  const lines: string[] = [];
  const { erofs } = await buildRoot({
    source,
    cacheDir: join(dir, 'cache'),
    additions: { packages: [], copies: [], ...additions },
    onProgress: (line) => lines.push(line),
  });
  expect(lines.length).toBeGreaterThan(1);
  return open(erofs, dir).root;
}

async function failure(dir: string, source: string, additions: Partial<Additions>): Promise<unknown> {
  const error: unknown = await add(dir, source, additions).catch((reason: unknown) => reason);
  expect(await readdir(join(dir, 'cache/tmp')).catch(() => [])).toEqual([]);
  return error;
}

describe('a copy', () => {
  test('of a file goes to a name or into a directory, of a directory its content is merged', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    const app = join(dir, 'app');
    await mkdir(join(app, 'sub'), { recursive: true });
    await writeFile(join(app, 'run'), '#!/bin/sh\n');
    await chmod(join(app, 'run'), 0o750);
    await symlink('/etc/motd', join(app, 'sub/link'));
    const root = await add(dir, source, {
      copies: [
        { from: app, to: '/data/old' },
        { from: join(app, 'run'), to: 'srv/bin/' },
        { from: join(app, 'run'), to: '/etc/motd' },
        { from: join(app, 'run'), to: '/data' },
      ],
    });
    expect((await readdir(join(root, 'data/old'))).toSorted()).toEqual(['a', 'run', 'sub']);
    expect((await stat(join(root, 'data/old/run'))).mode & 0o777).toBe(0o750);
    expect((await stat(join(root, 'srv/bin/run'))).isFile()).toBe(true);
    expect(await readFile(join(root, 'etc/motd'), 'utf8')).toBe('#!/bin/sh\n');
    expect(await readFile(join(root, 'etc/motd-again'), 'utf8')).toBe('first\n');
    expect((await readdir(join(root, 'data'))).toSorted()).toEqual(['gone', 'old', 'run']);
  });

  test('never leaves the root through its links', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    const outside = join(dir, 'outside');
    await mkdir(outside);
    await writeFile(join(outside, 'keep'), 'kept');
    await symlink(outside, join(source, 'out'));
    await symlink('../../../../..', join(source, 'data/up'));
    await symlink(join(outside, 'keep'), join(source, 'data/file'));
    const from = join(source, 'etc');
    const root = await add(dir, source, {
      copies: [
        { from, to: '/out/x' },
        { from, to: '/data/up/y' },
        { from: join(from, 'motd'), to: '/data/file' },
      ],
    });
    expect(await readdir(outside)).toEqual(['keep']);
    expect(await readFile(join(outside, 'keep'), 'utf8')).toBe('kept');
    expect(await readFile(join(root, outside, 'x/motd'), 'utf8')).toBe('first\n');
    expect(await readFile(join(root, 'y/motd'), 'utf8')).toBe('first\n');
  });

  test('with a mistake is refused, and says which', async () => {
    const dir = await scratchDir();
    const source = await tinyRoot(dir);
    await symlink('loop', join(source, 'loop'));
    const from = join(source, 'etc');
    const copy = (copyFrom: string, to: string) => failure(dir, source, { copies: [{ from: copyFrom, to }] });
    expect(await copy(join(dir, 'none'), '/x')).toMatchObject({ code: 'source_not_found', message: /none to copy/ });
    expect(await copy(from, '/proc/x')).toMatchObject({ code: 'bad_addition', message: /would not be seen/ });
    expect(await copy(from, '/loop/x')).toMatchObject({ code: 'bad_addition', message: /circle/ });
    expect(await copy(from, '/bin/hello')).toMatchObject({ code: 'bad_addition', message: /file of the image/ });
    expect(await copy('/dev/null', '/x')).toMatchObject({ code: 'bad_addition', message: /neither/ });
    expect(await copy(dir, '/x')).toMatchObject({ code: 'not_a_rootfs', message: /cache/ });
  });
});

const hasPip = spawnSync('pip3', ['--version']).status === 0;

describe('a Python package', () => {
  /** A wheel of one module and one script, for one Python and platform. */
  function wheel(dir: string, name: string, tags: string): void {
    const info = `${name}-1.0.dist-info`;
    const files = {
      [`${name}.py`]: `TAGS = '${tags}'\n`,
      [`${info}/METADATA`]: `Metadata-Version: 2.1\nName: ${name}\nVersion: 1.0\n`,
      [`${info}/WHEEL`]: `Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: ${tags}\n`,
      [`${info}/entry_points.txt`]: `[console_scripts]\n${name}=${name}:main\n`,
      [`${info}/RECORD`]: '',
    };
    const program = 'import json,sys,zipfile as z; f=json.loads(sys.argv[2]); w=z.ZipFile(sys.argv[1],"w")';
    const write = `${program}\nfor n in f: w.writestr(n,f[n])\nw.close()`;
    must('python3', ['-c', write, join(dir, `${name}-1.0-${tags}.whl`), JSON.stringify(files)]);
  }

  /** A root with Python 3.12 in /usr/local, as container images have it, and with what a C library says of itself. */
  async function pythonRoot(dir: string, libc: string): Promise<string> {
    const root = await tinyRoot(dir);
    await mkdir(join(root, 'usr/local/bin'), { recursive: true });
    await writeFile(join(root, 'usr/local/bin/python3.12'), '');
    await symlink('python3.12', join(root, 'usr/local/bin/python3'));
    await mkdir(join(root, 'usr/lib/x86_64-linux-gnu'), { recursive: true });
    await symlink('/usr/lib', join(root, 'lib'));
    await writeFile(join(root, 'usr/lib/x86_64-linux-gnu/libc.so.6'), libc);
    return root;
  }

  const glibc = '\0GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n';

  function index(dir: string): void {
    vi.stubEnv('PIP_NO_INDEX', '1');
    vi.stubEnv('PIP_FIND_LINKS', dir);
    vi.stubEnv('PIP_CONFIG_FILE', '/dev/null');
  }

  test('is that for the Python and the C library of the root, with its scripts', async ({ skip }) => {
    skip(!hasPip, 'There is no pip3 on this machine.');
    const dir = await scratchDir();
    const source = await pythonRoot(dir, glibc);
    index(dir);
    wheel(dir, 'anywhere', 'py3-none-any');
    wheel(dir, 'native', 'cp312-cp312-manylinux_2_34_x86_64');
    const root = await add(dir, source, { packages: ['pip:anywhere', 'pip:native==1.0'] });
    const packages = join(root, 'usr/local/lib/python3.12/site-packages');
    expect(await readFile(join(packages, 'native.py'), 'utf8')).toContain('cp312');
    const script = await readFile(join(root, 'usr/local/bin/anywhere'), 'utf8');
    expect(script.split('\n', 1)).toEqual(['#!/usr/local/bin/python3.12']);
    expect((await readdir(packages)).includes('bin')).toBe(false);
  });

  test('that the root cannot run is refused with what pip said', async ({ skip }) => {
    skip(!hasPip, 'There is no pip3 on this machine.');
    const dir = await scratchDir();
    const source = await pythonRoot(dir, glibc.replace('2.36.', '2.31.'));
    index(dir);
    wheel(dir, 'native', 'cp312-cp312-manylinux_2_34_x86_64');
    expect(await failure(dir, source, { packages: ['pip:native'] })).toMatchObject({
      code: 'package_unavailable',
      message: /No matching distribution found for native/,
      hint: /Python 3\.12/,
    });
  });

  test('needs a root with Python', async () => {
    const dir = await scratchDir();
    const error = await failure(dir, await tinyRoot(dir), { packages: ['pip:numpy'] });
    expect(error).toMatchObject({ code: 'bad_addition', message: /has no Python, which numpy needs/ });
  });
});

describe('a package', () => {
  test.each(['', 'pip:', 'pip:--index-url=x', '-o', 'a,b', 'pip:a b', 'pip:./x.whl', '?essential', 'apt:Jq', 'npm:x'])(
    'cannot be called %j',
    async (name) => {
      const dir = await scratchDir();
      const error = await buildRoot({
        source: 'busybox',
        cacheDir: join(dir, 'cache'),
        additions: { packages: [name], copies: [] },
      }).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: 'bad_addition', message: /is not a package/ });
    },
  );

  test('of Debian is taken by recipes of Debian only', async () => {
    const dir = await scratchDir();
    for (const source of ['busybox', await tinyRoot(dir)]) {
      const building = buildRoot({
        source,
        cacheDir: join(dir, 'cache'),
        additions: { packages: ['jq'], copies: [] },
      });
      await expect(building).rejects.toMatchObject({ code: 'bad_addition', message: /takes no Debian packages/ });
    }
  });
});
