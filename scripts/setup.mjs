// Brings a checkout from nothing to built: host checks, Debian packages, npm packages, TypeScript, Rust.
// Plain JavaScript without dependencies, since it runs before `npm ci`. Every step is skipped when there is nothing to do.
import { existsSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import { delimiter, join } from 'node:path';
import { installPackages, missingPackages, runtimePackages, testPackages, unpackPackage } from './lib/debian.mjs';
import { step } from './lib/step.mjs';
import { SetupError, capture, logFile, repoRoot, say } from './lib/terminal.mjs';

const NODE_OLDEST = '20.19.0';
/** Crates whose programs run in guests, and on no host. */
const GUEST_ONLY = ['forkd-agent', 'forkd-storm'];
const GUEST_TARGET = 'x86_64-unknown-linux-gnu';
const NPM_QUIET = ['--no-audit', '--no-fund'];
const RUSTUP_COMMAND = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y";

/** Host checks and packages: what has to be there before anything can be built, and what forkd runs. */
export async function prepare() {
  await prepareBuild();
  await installDebian(runtimePackages);
  await installNodeModules();
}

/** Host checks, and the linker if there is none: what Rust needs. */
export async function prepareBuild() {
  say('forkd: set-up');
  addCargoToPath();
  checkHost();
  checkRust();
  if (!onPath('cc')) await installDebian(['gcc', 'libc6-dev']);
}

/** Installs the programs that forkd runs, and those that only the tests run. */
export async function installTestPrograms() {
  await installDebian([...runtimePackages, ...testPackages]);
  addToPath(await unpackPackage('docker-registry', freshLog('setup-docker-registry')));
}

/** What is compiled, by name; each of these throws a SetupError when it does not compile. */
export const builds = {
  typescript: () => compile('TypeScript', join(repoRoot, 'node_modules/.bin/tsc'), ['-b']),
  programs: () => compile('programs', process.execPath, ['scripts/bundle.mjs']),
  rust: () =>
    compile('Rust', 'cargo', [
      'build',
      '--release',
      '--locked',
      '--workspace',
      ...GUEST_ONLY.flatMap((name) => ['--exclude', name]),
    ]),
  guest: buildGuest,
};

/** Runs a script's body: a SetupError becomes one message and exit code 1; anything else is a bug and keeps its stack. */
export async function runMain(/** @type {() => Promise<number>} */ body) {
  try {
    process.exitCode = await body();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    process.stderr.write(`\nforkd: ${error.message}\n  ${error.hint}\n`);
    process.exitCode = 1;
  }
}

function checkHost() {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new SetupError(
      `forkd runs on Linux on x86-64, and this is ${process.platform} on ${process.arch}.`,
      'Use a Linux x86-64 host or virtual machine.',
    );
  }
  if (isOlder(process.versions.node, NODE_OLDEST)) {
    throw new SetupError(
      `forkd needs Node.js ${NODE_OLDEST} or newer, and this is ${process.versions.node}.`,
      'Install a current release of Node.js, then run this again.',
    );
  }
  if (process.getuid?.() !== 0) {
    throw new SetupError(
      `forkd builds root file systems and starts virtual machines as root, and this is user ${os.userInfo().username}.`,
      'Run it as root: sudo -E npm run quickstart',
    );
  }
  for (const program of ['apt-get', 'dpkg-query']) {
    if (!onPath(program)) {
      throw new SetupError(
        `${program} is not on this machine: the set-up knows only Debian and its derivatives.`,
        `Use Debian 12 or newer, or install by hand what these packages hold: ${runtimePackages.join(' ')}`,
      );
    }
  }
}

function checkRust() {
  if (!onPath('cargo')) {
    throw new SetupError('cargo, the Rust build tool, is not on this machine.', `Install it: ${RUSTUP_COMMAND}`);
  }
  const wanted = /^rust-version = "(.+)"$/m.exec(readFileSync(join(repoRoot, 'Cargo.toml'), 'utf8'))?.[1] ?? '0';
  const found = /\d+\.\d+\.\d+/.exec(capture('cargo', ['--version']))?.[0] ?? '0';
  if (isOlder(found, wanted)) {
    throw new SetupError(
      `forkd needs Rust ${wanted} or newer, and cargo is ${found}.`,
      `Update it: rustup update stable (or, without rustup: ${RUSTUP_COMMAND})`,
    );
  }
  const libraries = join(capture('rustc', ['--print', 'sysroot']).trim(), 'lib/rustlib', GUEST_TARGET, 'lib');
  if (!existsSync(libraries)) {
    throw new SetupError(
      `Rust's standard library for ${GUEST_TARGET} is not on this machine, and the guest agent is built for it.`,
      `Add it: rustup target add ${GUEST_TARGET}`,
    );
  }
}

/** @param {readonly string[]} packages */
async function installDebian(packages) {
  await installPackages(missingPackages(packages), freshLog('setup-debian'));
}

/** Installs the npm packages of the lock file. */
export async function installNodeModules() {
  if (!nodeModulesMatchLock()) await step('npm packages', 'npm', ['ci', ...NPM_QUIET], freshLog('setup-npm'));
}

/** npm notes in `node_modules/.package-lock.json` what it installed; comparing versions is surer than comparing times. */
function nodeModulesMatchLock() {
  const installedFile = join(repoRoot, 'node_modules/.package-lock.json');
  if (!existsSync(installedFile)) return false;
  const installed = JSON.parse(readFileSync(installedFile, 'utf8')).packages;
  const wanted = JSON.parse(readFileSync(join(repoRoot, 'package-lock.json'), 'utf8')).packages;
  return Object.entries(wanted).every(
    ([name, entry]) =>
      !name.startsWith('node_modules/') || entry.optional || installed[name]?.version === entry.version,
  );
}

/**
 * PID 1 of the guest has no dynamic loader there, so it is linked statically; into a target directory of its own, since
 * other flags in the same directory would rebuild everything at each turn.
 */
async function buildGuest() {
  // Also what runs in a root of its own, as the real Firecracker does.
  const packages = [...GUEST_ONLY, 'forkd-firecracker-stand-in'].flatMap((name) => ['-p', name]);
  const args = ['build', '--release', '--locked', ...packages, '--target', GUEST_TARGET];
  const flags = { CARGO_TARGET_DIR: 'target/guest', RUSTFLAGS: '-C target-feature=+crt-static' };
  // Every guest unpacks it into its memory at boot: debug information would be three quarters of that.
  const strip = { CARGO_PROFILE_RELEASE_STRIP: 'debuginfo' };
  await compile('guest programs', 'cargo', args, { ...process.env, ...flags, ...strip });
}

/** @param {string} title @param {string} file @param {readonly string[]} args @param {NodeJS.ProcessEnv} [env] */
async function compile(title, file, args, env) {
  await step(title, file, args, freshLog(`build-${title.replace(' ', '-').toLowerCase()}`), env);
}

/** @param {string} name of a log, which this run starts anew @returns {string} its path */
function freshLog(name) {
  const log = logFile(name);
  rmSync(log, { force: true });
  return log;
}

/** Root's PATH under sudo often lacks the place that rustup installs to. */
function addCargoToPath() {
  addToPath(join(process.env.CARGO_HOME ?? join(os.homedir(), '.cargo'), 'bin'));
}

/** @param {string} directory appended, so that what the user put on PATH wins */
function addToPath(directory) {
  const parts = (process.env.PATH ?? '').split(delimiter);
  if (existsSync(directory) && !parts.includes(directory)) process.env.PATH = [...parts, directory].join(delimiter);
}

/** @param {string} program */
function onPath(program) {
  return (process.env.PATH ?? '').split(delimiter).some((directory) => existsSync(join(directory, program)));
}

/** @param {string} found @param {string} wanted dotted numbers, such as `20.19.0` */
function isOlder(found, wanted) {
  return found.localeCompare(wanted, 'en', { numeric: true }) < 0;
}
