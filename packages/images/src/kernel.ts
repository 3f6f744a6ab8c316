import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { ImageError, isErrno } from './errors.ts';
import { exists, publish, readJson, withWorkDir, writeFileAtomic } from './files.ts';
import { run } from './run.ts';
import { treeHolds, trustTree } from './verified.ts';

export interface Kernel {
  readonly vmlinuz: string;
  /** The version that `uname -r` prints in the guest. */
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
  const kernels = join(options.cacheDir, 'kernels');
  const packageName = await resolvePackage(kernels, options.signal);
  const version = packageName.replace(/^linux-image-(unsigned-)?/, '');
  const home = join(kernels, version);
  if (!(await isWhole(home, options))) {
    options.onProgress?.(`kernel: fetching ${packageName}`);
    await withWorkDir(options.cacheDir, (dir) =>
      fetchKernel({ packageName, version, home, dir, signal: options.signal }),
    );
  }
  return { vmlinuz: join(home, 'vmlinuz'), version, modulesDir: join(home, 'modules') };
}

/**
 * Whether a kernel of the cache is there and as it was fetched. One that a disk or a person has changed is removed. Of one
 * that an earlier version fetched without noting its digest, the digest is noted now.
 */
async function isWhole(home: string, { signal, onProgress }: EnsureKernelOptions): Promise<boolean> {
  if (!(await exists(home))) return false;
  const noteFile = `${home}.json`;
  const note = await readJson<Note>(noteFile).catch(() => null);
  if (note === null) {
    await writeFileAtomic(noteFile, JSON.stringify({ digest: await trustTree(home, signal) } satisfies Note));
    return true;
  }
  if (await treeHolds(home, note.digest, signal)) return true;
  onProgress?.(`kernel: ${basename(home)} has changed on disk, and is fetched again`);
  await rm(home, { recursive: true, force: true });
  return false;
}

/** The note that is kept beside the directory of a kernel. */
interface Note {
  readonly digest: string;
}

async function ownKernel(kernelFile: string): Promise<Kernel> {
  const vmlinuz = resolve(kernelFile);
  return { vmlinuz, version: await bzImageVersion(vmlinuz), modulesDir: null };
}

/** Reads the header that every x86 boot image has (the kernel's Documentation/arch/x86/boot.rst). */
async function bzImageVersion(file: string): Promise<string> {
  const handle = await open(file).catch((error: unknown) => {
    if (!isErrno(error, 'ENOENT', 'ENOTDIR', 'ENAMETOOLONG', 'ELOOP', 'EACCES')) throw error;
    throw new ImageError('bad_kernel', `There is no kernel to read at ${file}.`, {
      hint: OWN_KERNEL_HINT,
      cause: error,
    });
  });
  try {
    if (!(await handle.stat()).isFile()) throw notBzImage(file);
    const header = Buffer.alloc(0x8000);
    const { bytesRead } = await handle.read(header, 0, header.length, 0);
    if (header.toString('latin1', 0, 4) === '\x7fELF') throw isElf(file);
    if (bytesRead < 0x400 || header.toString('latin1', 0x202, 0x206) !== 'HdrS') throw notBzImage(file);
    const start = header.readUInt16LE(0x20e) + 0x200;
    const text = header.toString('latin1', start, start + 256);
    return /^[\x21-\x7e]+/.exec(text)?.[0] ?? 'unknown';
  } finally {
    await handle.close();
  }
}

/** The form that some VMMs boot, and that a kernel's build leaves beside the bzImage. */
function isElf(file: string): ImageError {
  return new ImageError('bad_kernel', `${file} is an ELF vmlinux, and a kernel must be an x86 bzImage.`, {
    hint: 'Give the bzImage of the same build (arch/x86/boot/bzImage), or leave the kernel out for the default one.',
  });
}

function notBzImage(file: string): ImageError {
  return new ImageError('bad_kernel', `${file} is not an x86 boot image (it lacks the magic 'HdrS').`, {
    hint: OWN_KERNEL_HINT,
  });
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
  const keptFile = join(kernels, 'resolved.json');
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
    `The guest kernel, on which the package ${META_PACKAGE} depends, could not be fetched by apt.`,
    {
      hint: 'See that this machine reaches its package mirror and run `apt-get update`. Or name a kernel of your own with --kernel FILE.',
      cause,
    },
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
  const unpacked = join(dir, 'unpacked');
  await run('dpkg', ['-x', join(dir, deb), unpacked], { signal });
  const kept = join(dir, 'kernel');
  await mkdir(kept);
  // Debian 12 ships modules in /lib, later releases in /usr/lib.
  const prefix = (await exists(join(unpacked, 'lib/modules'))) ? 'lib' : 'usr/lib';
  await rename(join(unpacked, prefix, 'modules', version), join(kept, 'modules'));
  await rename(join(unpacked, 'boot', `vmlinuz-${version}`), join(kept, 'vmlinuz'));
  await writeFileAtomic(`${home}.json`, JSON.stringify({ digest: await trustTree(kept, signal) } satisfies Note));
  await publish(kept, home);
}
