// Debian packages: what is missing, and one apt-get call that installs it.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { SetupError, excerpt, repoRoot, runLogged, say, stateDir } from './terminal.mjs';

const APT_ENV = { DEBIAN_FRONTEND: 'noninteractive' };

/** What forkd runs at run time, and the package that brings it. */
export const runtimePackages = [
  'qemu-system-x86',
  'mmdebstrap',
  'erofs-utils',
  'e2fsprogs',
  'zstd',
  'cpio',
  'skopeo',
  'busybox-static',
];

/**
 * What only the tests run: shells that complete words, what checks the manual page, certificates, the fuzzer's Python,
 * what stops a program at a call, what makes file systems whose blocks files can share, a browser, and what makes images.
 */
export const testPackages = [
  'btrfs-progs',
  'chromium',
  'fish',
  'man-db',
  'mandoc',
  'openssl',
  'python3-venv',
  'strace',
  'umoci',
  'xfsprogs',
  'zsh',
];

/** @param {readonly string[]} packages @returns {string[]} those that are not fully installed */
export function missingPackages(packages) {
  const query = spawnSync('dpkg-query', ['-W', '-f', '${Package} ${db:Status-Abbrev}\n', ...packages], {
    encoding: 'utf8',
  });
  const installed = new Set();
  for (const line of query.stdout.split('\n')) {
    const [name, status] = line.split(' ');
    if (status === 'ii') installed.add(name);
  }
  return packages.filter((name) => !installed.has(name));
}

/**
 * Installs packages, after an `apt-get update` only when the lists at hand are not good enough.
 * @param {readonly string[]} packages @param {string} log
 */
export async function installPackages(packages, log) {
  if (packages.length === 0) return;
  say(`  installing Debian packages: ${packages.join(' ')}`);
  const install = ['install', '-y', '--no-install-recommends', ...packages];
  if ((await apt(install, log)) === 0) return;
  say('  the package lists are missing or old: running apt-get update');
  const updated = await apt(['update'], log);
  if ((await apt(install, log)) === 0) return;
  throw new SetupError(
    `apt-get could not install ${packages.join(' ')}${updated === 0 ? '' : ', nor update its lists'}:\n${excerpt(log)}`,
    `See that this machine reaches its package mirror, then run: apt-get update && apt-get ${install.join(' ')}`,
  );
}

/**
 * Unpacks a package beside the checkout instead of installing it: for daemons, whose installation would start a service.
 * @param {string} name @param {string} log
 * @returns {Promise<string>} the directory that its programs are in
 */
export async function unpackPackage(name, log) {
  const home = join(stateDir, 'tools', name);
  const programs = join(home, 'usr/bin');
  if (existsSync(programs)) return programs;
  say(`  fetching Debian package ${name} (unpacked into ${relative(repoRoot, home)}, not installed)`);
  mkdirSync(dirname(home), { recursive: true });
  const work = mkdtempSync(join(dirname(home), `.${name}-`));
  try {
    await downloadPackage(name, work, log);
    const deb = readdirSync(work).find((file) => file.endsWith('.deb'));
    const unpacked = join(work, 'root');
    const code = deb ? await runLogged('dpkg', ['-x', join(work, deb), unpacked], { log }) : 1;
    if (code !== 0) throw new SetupError(`dpkg could not unpack ${name}:\n${excerpt(log)}`, `See ${log}.`);
    if (!existsSync(programs)) renameSync(unpacked, home);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return programs;
}

/** @param {string} name @param {string} work @param {string} log */
async function downloadPackage(name, work, log) {
  if ((await apt(['download', name], log, work)) === 0) return;
  await apt(['update'], log);
  if ((await apt(['download', name], log, work)) === 0) return;
  throw new SetupError(
    `apt-get could not download ${name}:\n${excerpt(log)}`,
    'See that this machine reaches its package mirror, then run: apt-get update',
  );
}

/** @param {readonly string[]} args @param {string} log @param {string} [cwd] */
function apt(args, log, cwd) {
  return runLogged('apt-get', args, { log, env: { ...process.env, ...APT_ENV }, ...(cwd ? { cwd } : {}) });
}
