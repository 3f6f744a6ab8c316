// `npm run package [-- KIND...]`: packages what `npm run build` has built, in `dist/`. The kinds are `tarball`, `deb` (a Debian
// package) and `oci` (an image layout with Debian, QEMU and Node.js in it; needs root and a package mirror). Default: all.
// The same build gives the same bytes: every time in a package is SOURCE_DATE_EPOCH, or else the time of the last commit.
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { makeDeb } from './lib/package-deb.mjs';
import { makeOciLayout } from './lib/package-oci.mjs';
import { stageTree } from './lib/package-tree.mjs';
import { SetupError, capture, logFile, repoRoot, runLogged, say, seconds } from './lib/terminal.mjs';
import { runMain } from './setup.mjs';

const OUT = join(repoRoot, 'dist');

/**
 * @typedef {object} Package what a kind is made of
 * @property {string} tree the installed files, without the prefix such as `/usr`
 * @property {string} out the directory of the packages
 * @property {string} work for intermediate files
 * @property {string} version
 * @property {string} epoch the time of every file, in seconds
 * @property {(file: string, args: readonly string[]) => Promise<void>} run
 */

/** @type {Record<string, (parts: Package) => Promise<string>>} each returns the file or directory that it made */
const kinds = { tarball: makeTarball, deb: makeDeb, oci: makeOciLayout };

await runMain(async () => {
  const chosen = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(kinds);
  const unknown = chosen.find((kind) => !Object.hasOwn(kinds, kind));
  if (unknown !== undefined) {
    throw new SetupError(
      `There is no package of kind '${unknown}'.`,
      `The kinds are ${Object.keys(kinds).join(', ')}.`,
    );
  }
  // The modes of directories are in the packages too.
  process.umask(0o022);
  mkdirSync(OUT, { recursive: true });
  const work = mkdtempSync(join(OUT, '.work-'));
  const epoch = process.env.SOURCE_DATE_EPOCH ?? capture('git', ['log', '-1', '--format=%ct']).trim();
  const run = runner(epoch);
  try {
    const { tree, version } = await stageTree(work, run);
    for (const kind of chosen) {
      const startedAt = performance.now();
      const made = await kinds[kind]?.({ tree, out: OUT, work, version, epoch, run });
      say(`  ${relative(repoRoot, made ?? '')}: ${seconds(startedAt)}`);
    }
  } finally {
    rmSync(work, { recursive: true });
  }
  return 0;
});

/** @param {string} epoch @returns {Package['run']} runs a program to its end; its failure is a SetupError */
function runner(epoch) {
  const log = logFile('package');
  rmSync(log, { force: true });
  return async (file, args) => {
    const code = await runLogged(file, args, { log, env: { ...process.env, SOURCE_DATE_EPOCH: epoch } });
    if (code === 0) return;
    throw new SetupError(`${file} ended with ${code}.`, `Its output is in ${relative(repoRoot, log)}.`);
  };
}

/** @param {Package} parts */
async function makeTarball({ tree, out, work, version, epoch, run }) {
  const name = `forkd-${version}-linux-x64`;
  const file = join(out, `${name}.tar.gz`);
  copyFileSync(join(repoRoot, 'LICENSE'), join(work, 'LICENSE'));
  const owner = ['--owner=0', '--group=0', '--numeric-owner'];
  const names = [`--transform=s,^tree,${name},`, `--transform=s,^LICENSE,${name}/LICENSE,`];
  const order = ['--sort=name', `--mtime=@${epoch}`];
  await run('tar', [
    '-C',
    work,
    ...owner,
    ...names,
    ...order,
    '-I',
    'gzip -n',
    '-cf',
    file,
    relative(work, tree),
    'LICENSE',
  ]);
  return file;
}
