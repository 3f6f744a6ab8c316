// The Debian package.
import { createHash } from 'node:crypto';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { runtimePackages } from './debian.mjs';
import { capture, repoRoot } from './terminal.mjs';

/**
 * @param {import('../package.mjs').Package} parts
 * @returns {Promise<string>} the file of the package
 */
export async function makeDeb({ tree, out, work, version, run }) {
  const root = mkdtempSync(join(work, 'deb-'));
  chmodSync(root, 0o755);
  cpSync(tree, join(root, 'usr'), { recursive: true });
  const files = filesBelow(join(root, 'usr'));
  mkdirSync(join(root, 'DEBIAN'));
  for (const script of readdirSync(join(repoRoot, 'packaging/debian'))) {
    cpSync(join(repoRoot, 'packaging/debian', script), join(root, 'DEBIAN', script));
    chmodSync(join(root, 'DEBIAN', script), 0o755);
  }
  const sums = files.map((file) => `${digestOf(file)}  ${relative(root, file)}\n`);
  writeFileSync(join(root, 'DEBIAN/md5sums'), sums.join(''), { mode: 0o644 });
  const kib = Math.ceil(files.reduce((sum, file) => sum + statSync(file).size, 0) / 1024);
  writeFileSync(join(root, 'DEBIAN/control'), control(version, kib), { mode: 0o644 });
  const made = join(out, `forkd_${version}_amd64.deb`);
  await run('dpkg-deb', ['--root-owner-group', '-Zxz', '--build', root, made]);
  return made;
}

/** @param {string} version @param {number} kib */
function control(version, kib) {
  const depends = [...nativeLibraries(), ...runtimePackages, 'xz-utils'];
  return `Package: forkd
Version: ${version}
Architecture: amd64
Maintainer: The forkd contributors
Installed-Size: ${kib}
Depends: ${depends.join(', ')}
Recommends: ${nodePackage()}, ca-certificates
Section: admin
Priority: optional
Description: sandboxes that are forked and branched while they run
 forkd boots a microVM once and warms it up. From then on it forks children
 that continue from the warm state, and branches a sandbox while it runs.
 .
 forkd runs on Node.js 20.19 or newer. Where the distribution has an older
 one, as Debian 12 has, the node on PATH is used, from wherever it comes.
`;
}

/** Only recommended: Debian 12 has no package that is new enough, and a node from elsewhere does as well. */
function nodePackage() {
  const { engines } = JSON.parse(readFileSync(join(repoRoot, 'package.json'), 'utf8'));
  return `nodejs (${engines.node.replace('>=', '>= ')})`;
}

/** The native programs are linked to the libraries of the host that built them, and need those or newer ones. */
function nativeLibraries() {
  const glibc = /\d+\.\d+/.exec(capture('getconf', ['GNU_LIBC_VERSION']))?.[0] ?? '0';
  return [`libc6 (>= ${glibc})`, 'libgcc-s1'];
}

/** @param {string} directory @returns {string[]} in the same order on every host */
function filesBelow(directory) {
  return readdirSync(directory, { withFileTypes: true })
    .toSorted((one, other) => (one.name < other.name ? -1 : 1))
    .flatMap((entry) => {
      const file = join(directory, entry.name);
      return entry.isDirectory() ? filesBelow(file) : [file];
    });
}

/** @param {string} file */
function digestOf(file) {
  return createHash('md5').update(readFileSync(file)).digest('hex');
}
