// `node scripts/bundle.mjs`: bundles the programs that users start, after `tsc -b`. To find and load hundreds of small modules
// takes most of the time of a short command; a bundle is a few files. Parts that a command may not need are files of their own.
import { randomUUID } from 'node:crypto';
import { chmod, mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';
import { repoRoot } from './lib/terminal.mjs';

/**
 * @typedef {object} Program
 * @property {string} folder its package
 * @property {string} name
 * @property {string[]} external loaded from node_modules
 * @property {{ name: string, minShareCount: number }[]} groups modules that go into one file
 */

/** @type {Program[]} */
const programs = [
  // Each command is a file of its own, beside one file of what several commands use. Benchmarks are part of a checkout only.
  { folder: 'packages/cli', name: 'forkd', external: ['@forkd/bench'], groups: [{ name: 'shared', minShareCount: 2 }] },
  { folder: 'packages/controller', name: 'forkd-controller', external: [], groups: [] },
];

/** Bundles all programs. */
async function bundlePrograms() {
  for (const program of programs) await bundleProgram(program);
}

/** Bundles the programs unless their bundles are newer than all that they are made of. */
export async function bundleIfStale() {
  const made = await Promise.all(programs.map(({ folder, name }) => changedMs(`${folder}/bundle/${name}.js`)));
  const sources = await Promise.all(
    ['package-lock.json', 'scripts/bundle.mjs', ...(await builtFiles())].map(changedMs),
  );
  if (Math.min(...made) <= Math.max(...sources)) await bundlePrograms();
}

/** The files that `tsc -b` has written. */
async function builtFiles() {
  const packages = await readdir(join(repoRoot, 'packages'));
  const files = await Promise.all(
    packages.map(async (name) => {
      const dist = `packages/${name}/dist`;
      const found = await readdir(join(repoRoot, dist), { recursive: true }).catch(() => []);
      return found.filter((file) => file.endsWith('.js')).map((file) => `${dist}/${file}`);
    }),
  );
  return files.flat();
}

/** @param {string} file @returns {Promise<number>} 0 for a file that does not exist */
async function changedMs(file) {
  return (await stat(join(repoRoot, file)).catch(() => ({ mtimeMs: 0 }))).mtimeMs;
}

/** @param {Program} program */
async function bundleProgram({ folder, name, external, groups }) {
  /** @type {string[]} */
  const problems = [];
  const bundle = await rolldown({
    input: { [name]: join(repoRoot, folder, 'dist/main.js') },
    platform: 'node',
    external,
    onLog: (level, log) => {
      // A module that is loaded with the program anyway may also be imported on demand: the SDK alone needs that.
      if (level === 'warn' && log.code !== 'INEFFECTIVE_DYNAMIC_IMPORT') problems.push(log.message);
    },
  });
  const { output } = await bundle.generate({ format: 'esm', comments: false, codeSplitting: { groups } });
  await bundle.close();
  if (problems.length > 0) throw new Error(`${folder} cannot be bundled: ${problems.join('; ')}`);
  const target = join(repoRoot, folder, 'bundle');
  await mkdir(target, { recursive: true });
  // The entry comes last: it names the other files, and its time is the time of the bundle.
  for (const file of output.toSorted((one, other) => Number(isEntry(one)) - Number(isEntry(other)))) {
    if (file.type === 'chunk') await replace(join(target, file.fileName), file.code);
  }
  await chmod(join(target, `${name}.js`), 0o755);
  const made = new Set(output.map(({ fileName }) => fileName));
  const old = (await readdir(target)).filter((file) => file.endsWith('.js') && !made.has(file));
  for (const file of old) await rm(join(target, file), { force: true });
}

/** @param {{ type: string, isEntry?: boolean }} file */
function isEntry(file) {
  return file.type === 'chunk' && file.isEntry === true;
}

/**
 * In one step: a program that starts meanwhile finds the old file or the new one.
 * @param {string} file @param {string} text
 */
async function replace(file, text) {
  const partial = `${file}.${randomUUID()}`;
  await writeFile(partial, text);
  await rename(partial, file);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bundlePrograms();
