// Tools of these tests: a scratch directory, a tiny root, images made from it, and a real registry.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import { basename, join } from 'node:path';
import { freePort } from '@forkd/testing';
import { onTestFinished } from 'vitest';

const repoRoot = join(import.meta.dirname, '../../..');

/** Kept between runs: kernels and recipes, which take a network and half a minute to make. */
export const sharedCache = process.env.FORKD_TEST_CACHE ?? join(repoRoot, '.cache/test');

const isRoot = process.getuid?.() === 0;

export async function scratchDir(): Promise<string> {
  const dir = await mkdtemp(join(os.tmpdir(), 'forkd-images-'));
  onTestFinished(async () => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** Runs a program that must succeed, and returns its standard output. */
export function must(file: string, args: readonly string[], options: { cwd?: string; input?: Buffer } = {}): string {
  const result = spawnSync(file, args, { encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (result.status !== 0) throw new Error(`${file} ${args.join(' ')}: ${result.stderr}${result.error?.message ?? ''}`);
  return result.stdout;
}

/** A root file system of a few files: one executable, a link, a hard link, an owner that is not root. */
export async function tinyRoot(dir: string): Promise<string> {
  const root = join(dir, 'tiny');
  await mkdir(join(root, 'bin'), { recursive: true });
  await mkdir(join(root, 'etc'));
  await mkdir(join(root, 'data/old'), { recursive: true });
  await writeFile(join(root, 'bin/hello'), '#!/bin/sh\necho hello\n');
  await chmod(join(root, 'bin/hello'), 0o4755);
  await writeFile(join(root, 'etc/motd'), 'first\n');
  await writeFile(join(root, 'data/old/a'), 'a'.repeat(10_000));
  await writeFile(join(root, 'data/gone'), 'gone');
  must('ln', ['-s', '../bin/hello', join(root, 'etc/link')]);
  must('ln', [join(root, 'etc/motd'), join(root, 'etc/motd-again')]);
  if (isRoot) must('chown', ['1234:1234', join(root, 'data/old/a')]);
  return root;
}

/**
 * An OCI layout of two layers, the second of which deletes one file, empties a directory (an opaque whiteout) and
 * replaces a file; with every field of the config set.
 */
export async function twoLayerImage(dir: string): Promise<string> {
  const root = await tinyRoot(dir);
  const layout = join(dir, 'layout');
  const image = `${layout}:tiny`;
  must('umoci', ['init', '--layout', layout]);
  must('umoci', ['new', '--image', image]);
  must('umoci', ['raw', 'add-layer', '--image', image, await tarOf(root, dir, 'one.tar')]);
  const upper = join(dir, 'upper');
  await mkdir(join(upper, 'data/old'), { recursive: true });
  await mkdir(join(upper, 'etc'));
  await writeFile(join(upper, 'data/.wh.gone'), '');
  await writeFile(join(upper, 'data/old/.wh..wh..opq'), '');
  await writeFile(join(upper, 'data/old/b'), 'b');
  await writeFile(join(upper, 'etc/motd'), 'second\n');
  must('umoci', ['raw', 'add-layer', '--image', image, await tarOf(upper, dir, 'two.tar')]);
  const config = [
    '--config.env=GREETING=a=b',
    '--config.env=EMPTY=',
    '--config.workingdir=/data',
    '--config.user=1234:1234',
  ];
  const command = ['--config.entrypoint=/bin/hello', '--config.entrypoint=-v', '--config.cmd=world'];
  must('umoci', ['config', '--image', image, ...config, ...command]);
  return layout;
}

/** What `twoLayerImage` says of itself. */
export const twoLayerConfig = {
  env: { GREETING: 'a=b', EMPTY: '' },
  workdir: '/data',
  user: '1234:1234',
  entrypoint: ['/bin/hello', '-v'],
  cmd: ['world'],
};

async function tarOf(root: string, dir: string, name: string): Promise<string> {
  const file = join(dir, name);
  must('tar', ['-cf', file, '-C', root, '--sort=name', ...(await readdir(root))]);
  return file;
}

/**
 * A directory with the content of an EROFS image: mounted by the kernel, or, where this host does not let a test mount,
 * unpacked by the format's own tool, which loses set-user-id bits.
 */
export function open(erofs: string, dir: string): { root: string; mounted: boolean } {
  const root = join(dir, `content-${basename(erofs, '.erofs').slice(-8)}`);
  must('mkdir', [root]);
  const mounted = spawnSync('mount', ['-t', 'erofs', '-o', 'ro,loop', erofs, root]).status === 0;
  if (mounted) onTestFinished(() => void must('umount', [root]));
  else must('fsck.erofs', [`--extract=${root}`, '--preserve', '--overwrite', erofs]);
  return { root, mounted };
}

/** Starts Debian's docker-registry on a free port of loopback; it ends with the test. Null where it is not there. */
export async function startRegistry(dir: string): Promise<string | null> {
  const program = findRegistry();
  if (program === null) return null;
  const port = await freePort();
  const config = join(dir, 'registry.yml');
  await writeFile(
    config,
    JSON.stringify({
      version: 0.1,
      log: { level: 'error' },
      storage: { filesystem: { rootdirectory: join(dir, 'registry') } },
      http: { addr: `127.0.0.1:${port}` },
    }),
  );
  const child = spawn(program, ['serve', config], { stdio: 'ignore' });
  onTestFinished(() => endProcess(child));
  const host = `127.0.0.1:${port}`;
  for (let attempt = 0; attempt < 100; attempt++) {
    const answer = await fetch(`http://${host}/v2/`).catch(() => null);
    if (answer?.ok) return host;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error('docker-registry did not answer within 5 s');
}

/** Gives the image with the tag `1` another name, `platforms`, of an index that has it for each of these. */
export async function pushForPlatforms(host: string, name: string, architectures: readonly string[]): Promise<void> {
  const at = `http://${host}/v2/${name}/manifests`;
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const found = await fetch(`${at}/1`, { headers: { accept: mediaType } });
  const digest = found.headers.get('docker-content-digest');
  const { byteLength: size } = await found.arrayBuffer();
  const type = 'application/vnd.oci.image.index.v1+json';
  const manifests = architectures.map((architecture) => ({
    mediaType,
    digest,
    size,
    platform: { os: 'linux', architecture },
  }));
  const body = JSON.stringify({ schemaVersion: 2, mediaType: type, manifests });
  const put = await fetch(`${at}/platforms`, { method: 'PUT', headers: { 'content-type': type }, body });
  if (!put.ok) throw new Error(`docker-registry takes no index: ${await put.text()}`);
}

function findRegistry(): string | null {
  const unpacked = join(repoRoot, '.cache/tools/docker-registry/usr/bin');
  const places = [...(process.env.PATH ?? '').split(':'), unpacked];
  return places.map((place) => join(place, 'docker-registry')).find((file) => existsSync(file)) ?? null;
}

async function endProcess(child: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => child.once('close', resolve));
  if (child.exitCode === null && child.kill()) await ended;
}
