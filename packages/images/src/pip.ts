import { mkdir, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { copyIn } from './copy-in.ts';
import { ImageError } from './errors.ts';
import { run } from './run.ts';
import { findInTree } from './tree-path.ts';

/** The time for pip to find and fetch all packages. */
const TIMEOUT_MS = 15 * 60_000;
const LIBC_BYTES_MAX = 64 * 1024 * 1024;
const SCRIPT_BYTES_MAX = 1024 * 1024;
/** The first release whose wheels carry the number of glibc in their names. */
const GLIBC_MINOR_MIN = 5;
/** Every image is taken to have this one if its C library does not say its release. */
const GLIBC_MINOR_DEFAULT = 17;

/** The Python of a root. */
interface Python {
  /** Path of the interpreter inside the root. */
  readonly program: string;
  /** `3.11`. */
  readonly version: string;
  /** The directory of the user's packages, inside the root. */
  readonly packages: string;
}

interface PipContext {
  /** A directory for temporary files. */
  readonly dir: string;
  readonly cacheDir: string;
  readonly description: string;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: (line: string) => void;
}

/**
 * Installs Python packages into a root, with the pip and the package index of this machine. Only wheels are taken, so that no program
 * of a package or of the image runs here.
 */
export async function installPython(tree: string, requirements: readonly string[], context: PipContext): Promise<void> {
  const { dir, description, signal, onProgress } = context;
  const python = await findPython(tree);
  if (python === null) {
    throw new ImageError('bad_addition', `The ${description} has no Python, which ${requirements.join(', ')} needs.`, {
      hint: 'Use an image that has python3, such as the recipe python.',
    });
  }
  const target = join(dir, 'python-packages');
  onProgress(`root: installing ${requirements.join(', ')} with pip`);
  await run('pip3', await argumentsOf(tree, python, target, requirements), {
    signal,
    timeoutMs: TIMEOUT_MS,
    onLine: onProgress,
    onFailure: (failure) => notInstalled(python, failure),
  });
  const scripts = join(target, 'bin');
  const places = { workdir: '/', cacheDir: context.cacheDir, signal };
  if ((await stat(scripts).catch(() => null))?.isDirectory() === true) {
    await nameInterpreter(scripts, python.program);
    await copyIn(tree, { from: scripts, to: '/usr/local/bin' }, places);
    await rm(scripts, { recursive: true });
  }
  await copyIn(tree, { from: target, to: python.packages }, places);
}

async function argumentsOf(
  tree: string,
  { version }: Python,
  target: string,
  requirements: readonly string[],
): Promise<string[]> {
  await mkdir(target);
  const quiet = ['--no-input', '--disable-pip-version-check', '--progress-bar=off', '--root-user-action=ignore'];
  const platforms = (await platformsOf(tree)).map((platform) => `--platform=${platform}`);
  const image = ['--only-binary=:all:', '--implementation=cp', `--python-version=${version}`, ...platforms];
  // Compiled by the Python of this machine, modules would be of no use to another release.
  return ['install', ...quiet, ...image, '--no-compile', `--target=${target}`, '--', ...requirements];
}

/** The interpreter that `python3` starts. One in /usr/local was put before that of the distribution. */
async function findPython(tree: string): Promise<Python | null> {
  for (const prefix of ['/usr/local', '/usr']) {
    const bin = await findInTree(tree, `${prefix}/bin`);
    if (bin === null) continue;
    const names = (await readdir(bin)).filter((name) => /^python3\.\d+$/.test(name));
    const linked = basename(await readlink(join(bin, 'python3')).catch(() => ''));
    const name = names.includes(linked) ? linked : names.toSorted((a, b) => minorOf(a) - minorOf(b)).at(-1);
    if (name === undefined) continue;
    const version = name.replace('python', '');
    // Debian keeps what its users install apart from its own packages.
    const isDebian = prefix === '/usr' && (await findInTree(tree, '/usr/lib/python3/dist-packages')) !== null;
    const packages = isDebian ? `/usr/local/lib/${name}/dist-packages` : `${prefix}/lib/${name}/site-packages`;
    return { program: `${prefix}/bin/${name}`, version, packages };
  }
  return null;
}

function minorOf(name: string): number {
  return Number(name.split('.')[1]);
}

/** The platforms whose wheels run with the C library of a root, best first. */
async function platformsOf(tree: string): Promise<string[]> {
  if ((await findInTree(tree, '/lib/ld-musl-x86_64.so.1')) !== null) {
    return ['musllinux_1_2_x86_64', 'musllinux_1_1_x86_64', 'linux_x86_64'];
  }
  const newest = await glibcMinor(tree);
  const minors = Array.from({ length: Math.max(0, newest - GLIBC_MINOR_MIN + 1) }, (_, index) => newest - index);
  const older = ['manylinux2014_x86_64', 'manylinux2010_x86_64', 'manylinux1_x86_64', 'linux_x86_64'];
  return [...minors.map((minor) => `manylinux_2_${minor}_x86_64`), ...older];
}

async function glibcMinor(tree: string): Promise<number> {
  for (const path of ['/lib/x86_64-linux-gnu/libc.so.6', '/lib64/libc.so.6', '/usr/lib/libc.so.6']) {
    const file = await findInTree(tree, path);
    const info = file === null ? null : await stat(file);
    if (file === null || info?.isFile() !== true || info.size > LIBC_BYTES_MAX) continue;
    const found = /GNU C Library [^\n]{0,200}version 2\.(\d{1,2})\b/.exec(await readFile(file, 'latin1'));
    if (found !== null) return Number(found[1]);
  }
  return GLIBC_MINOR_DEFAULT;
}

/** pip writes the path of this machine's Python into scripts; here they get that of the root. */
async function nameInterpreter(scripts: string, program: string): Promise<void> {
  for (const entry of await readdir(scripts, { withFileTypes: true })) {
    const file = join(scripts, entry.name);
    if (!entry.isFile() || (await stat(file)).size > SCRIPT_BYTES_MAX) continue;
    const text = await readFile(file, 'latin1');
    // The second form is for a path that is too long for a first line.
    const named = text.replace(/^#!(\/bin\/sh\n'''exec' .*\n' '''|.*python.*)\n/, `#!${program}\n`);
    if (named !== text) await writeFile(file, named, 'latin1');
  }
}

function notInstalled({ version }: Python, failure: ImageError): ImageError {
  const said = failure.cause instanceof Error ? failure.cause.message : failure.message;
  const errors = said.split('\n').flatMap((line) => /^ERROR: (.*)$/.exec(line)?.[1] ?? []);
  const sentence = errors.length === 0 ? failure.message : errors.join(' ');
  return new ImageError('package_unavailable', `Python packages could not be installed: ${sentence}`, {
    hint: `Only wheels for Python ${version} are taken. The settings of pip on the host of the controller say where from.`,
    cause: failure.cause,
  });
}
