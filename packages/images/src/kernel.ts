import { mkdir, open, readdir, rename, stat } from 'node:fs/promises';
import path from 'node:path';
import { ImageError, isErrno } from './errors.ts';
import { exists, publish, readJson, withWorkDir, writeFileAtomic } from './files.ts';
import { run } from './run.ts';

export interface Kernel {
  readonly vmlinuz: string;
  /** As `uname -r` says it in the guest. */
  readonly version: string;
  /** The directory with `kernel/` and `modules.builtin`; null for a user's own kernel, which has all it needs built in. */
  readonly modulesDir: string | null;
}

export interface EnsureKernelOptions {
  readonly cacheDir: string;
  /** The user's own bzImage, instead of the distribution's kernel. */
  readonly kernelFile?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (line: string) => void;
}

const META_PACKAGE = 'linux-image-cloud-amd64';
const APT_LISTS = '/var/lib/apt/lists';
const OWN_KERNEL_HINT =
  'Give the path of an x86 bzImage, such as /boot/vmlinuz-*, or leave it out for the default kernel.';

/** A guest kernel: the user's own, or the distribution's cloud kernel, fetched once and never installed on the host. */
export async function ensureKernel(options: EnsureKernelOptions): Promise<Kernel> {
  options.signal?.throwIfAborted();
  if (options.kernelFile !== undefined) return ownKernel(options.kernelFile);
  const kernels = path.join(options.cacheDir, 'kernels');
  const packageName = await resolvePackage(kernels, options.signal);
  const version = packageName.replace(/^linux-image-(unsigned-)?/, '');
  const home = path.join(kernels, version);
  if (!(await exists(home))) {
    options.onProgress?.(`kernel: fetching ${packageName}`);
    await withWorkDir(options.cacheDir, (dir) =>
      fetchKernel({ packageName, version, home, dir, signal: options.signal }),
    );
  }
  return { vmlinuz: path.join(home, 'vmlinuz'), version, modulesDir: path.join(home, 'modules') };
}

async function ownKernel(kernelFile: string): Promise<Kernel> {
  const vmlinuz = path.resolve(kernelFile);
  return { vmlinuz, version: await bzImageVersion(vmlinuz), modulesDir: null };
}

/** Reads the header that every x86 boot image has (the kernel's Documentation/arch/x86/boot.rst). */
async function bzImageVersion(file: string): Promise<string> {
  const handle = await open(file).catch((error: unknown) => {
    if (!isErrno(error, 'ENOENT', 'ENOTDIR', 'ENAMETOOLONG', 'ELOOP', 'EACCES')) throw error;
    throw new ImageError('bad_kernel', `There is no kernel to read at ${file}.`, OWN_KERNEL_HINT, error);
  });
  try {
    if (!(await handle.stat()).isFile()) throw notBzImage(file);
    const header = Buffer.alloc(0x8000);
    const { bytesRead } = await handle.read(header, 0, header.length, 0);
    if (bytesRead < 0x400 || header.toString('latin1', 0x202, 0x206) !== 'HdrS') throw notBzImage(file);
    const start = header.readUInt16LE(0x20e) + 0x200;
    const text = header.toString('latin1', start, start + 256);
    return /^[\x21-\x7e]+/.exec(text)?.[0] ?? 'unknown';
  } finally {
    await handle.close();
  }
}

function notBzImage(file: string): ImageError {
  return new ImageError('bad_kernel', `${file} is not an x86 boot image (it lacks the magic 'HdrS').`, OWN_KERNEL_HINT);
}

interface Resolved {
  readonly packageName: string;
  readonly listsMtimeMs: number;
}

/**
 * The package that the distribution's cloud kernel is at now. Asking apt takes a second, so the answer is kept until its
 * lists change; where apt has no answer, the last one is still good, and so a host without lists boots what it has.
 */
async function resolvePackage(kernels: string, signal: AbortSignal | undefined): Promise<string> {
  const keptFile = path.join(kernels, 'resolved.json');
  const kept = await readJson<Resolved>(keptFile).catch(() => null);
  const listsMtimeMs = (await stat(APT_LISTS).catch(() => null))?.mtimeMs ?? 0;
  if (kept?.listsMtimeMs === listsMtimeMs) return kept.packageName;
  const answer = await run('apt-cache', ['depends', '--important', META_PACKAGE], { signal }).catch(
    (error: unknown) => {
      if (kept !== null && error instanceof ImageError) return Buffer.alloc(0);
      throw error instanceof ImageError && error.code === 'program_failed' ? kernelUnavailable(error) : error;
    },
  );
  const packageName = /Depends: (linux-image-\S+)/.exec(answer.toString())?.[1] ?? kept?.packageName;
  if (packageName === undefined) throw kernelUnavailable();
  await writeFileAtomic(keptFile, JSON.stringify({ packageName, listsMtimeMs } satisfies Resolved));
  return packageName;
}

function kernelUnavailable(cause?: unknown): ImageError {
  return new ImageError(
    'kernel_unavailable',
    `apt could not get the guest kernel, which is what the package ${META_PACKAGE} depends on.`,
    'See that this machine reaches its package mirror and run: apt-get update. Or name a kernel of your own: --kernel FILE.',
    cause,
  );
}

interface Fetch {
  readonly packageName: string;
  readonly version: string;
  readonly home: string;
  readonly dir: string;
  readonly signal: AbortSignal | undefined;
}

async function fetchKernel({ packageName, version, home, dir, signal }: Fetch): Promise<void> {
  // apt drops its privileges to download unless it cannot write there, and then it only warns: say that it is meant.
  const args = ['-o', 'APT::Sandbox::User=root', 'download', packageName];
  await run('apt-get', args, { cwd: dir, signal, onFailure: kernelUnavailable });
  const deb = (await readdir(dir)).find((name) => name.endsWith('.deb'));
  if (deb === undefined) throw kernelUnavailable();
  const unpacked = path.join(dir, 'unpacked');
  await run('dpkg', ['-x', path.join(dir, deb), unpacked], { signal });
  const kept = path.join(dir, 'kernel');
  await mkdir(kept);
  // Debian 12 ships modules in /lib, later releases in /usr/lib.
  const prefix = (await exists(path.join(unpacked, 'lib/modules'))) ? 'lib' : 'usr/lib';
  await rename(path.join(unpacked, prefix, 'modules', version), path.join(kept, 'modules'));
  await rename(path.join(unpacked, 'boot', `vmlinuz-${version}`), path.join(kept, 'vmlinuz'));
  await publish(kept, home);
}
