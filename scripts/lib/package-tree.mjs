// The files of an installation, as they are below its prefix: `/usr` for the Debian package.
import { chmodSync, cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { thirdPartyNotices } from './package-notices.mjs';
import { SetupError, repoRoot } from './terminal.mjs';

const HOST_BUILD = 'target/release';
const GUEST_BUILD = 'target/guest/x86_64-unknown-linux-gnu/release';
const PACKAGES = 'lib/forkd/node_modules/@forkd';

/** The native programs, which the controller looks for in its package. `forkd-page-server` is started by hand. */
const natives = [
  ...['forkd-pager', 'forkd-disk', 'forkd-net', 'forkd-jail', 'forkd-page-server', 'libforkd_shim.so'].map((name) =>
    join(HOST_BUILD, name),
  ),
  join(GUEST_BUILD, 'forkd-agent'),
];

/** Files that are copied as they are: where each comes from, and where it goes. */
const copies = {
  'packaging/systemd/forkd-controller.service': 'lib/systemd/system/forkd-controller.service',
  'packaging/completion/forkd.bash': 'share/bash-completion/completions/forkd',
  'packaging/completion/_forkd': 'share/zsh/vendor-completions/_forkd',
  'packaging/completion/forkd.fish': 'share/fish/vendor_completions.d/forkd.fish',
  LICENSE: 'share/doc/forkd/copyright',
};

/**
 * Copies the built files into `work/tree`.
 * @param {string} work @param {(file: string, args: readonly string[]) => Promise<void>} run
 * @returns {Promise<{ tree: string, version: string }>}
 */
export async function stageTree(work, run) {
  const tree = join(work, 'tree');
  for (const [from, to] of Object.entries(copies)) copy(from, join(tree, to), 0o644);
  for (const name of ['cli', 'controller']) {
    const home = join(tree, PACKAGES, name);
    copy(`packages/${name}/package.json`, join(home, 'package.json'), 0o644);
    for (const file of built(`packages/${name}/bundle`))
      copy(`packages/${name}/bundle/${file}`, join(home, 'bundle', file), 0o644);
  }
  for (const from of natives) {
    const to = join(tree, PACKAGES, 'controller/native', from.slice(from.lastIndexOf('/') + 1));
    copy(from, to, to.endsWith('.so') ? 0o644 : 0o755);
    await run('strip', ['--strip-debug', to]);
  }
  const manual = readFileSync(join(repoRoot, 'packaging/man/forkd.1'));
  write(join(tree, 'share/man/man1/forkd.1.gz'), gzipSync(manual, { level: 9 }), 0o644);
  write(join(tree, 'share/doc/forkd/third-party.gz'), gzipSync(thirdPartyNotices(), { level: 9 }), 0o644);
  const { version, engines } = JSON.parse(readFileSync(join(repoRoot, 'package.json'), 'utf8'));
  for (const name of ['forkd', 'forkd-controller']) write(join(tree, 'bin', name), launcher(engines.node), 0o755);
  return { tree, version };
}

/** @param {string} nodeRange such as `>=20.19` */
function launcher(nodeRange) {
  const [, major = '', minor = ''] = /^>=(\d+)\.(\d+)$/.exec(nodeRange) ?? [];
  const text = readFileSync(join(repoRoot, 'packaging/launcher.sh'), 'utf8');
  return text.replaceAll('@NODE_MAJOR@', major).replaceAll('@NODE_MINOR@', minor);
}

/** @param {string} folder */
function built(folder) {
  try {
    return readdirSync(join(repoRoot, folder));
  } catch (error) {
    throw notBuilt(folder, error);
  }
}

/** @param {string} from in the repository @param {string} to @param {number} mode */
function copy(from, to, mode) {
  mkdirSync(dirname(to), { recursive: true });
  try {
    cpSync(join(repoRoot, from), to);
  } catch (error) {
    throw notBuilt(from, error);
  }
  chmodSync(to, mode);
}

/** @param {string} to @param {string | Uint8Array} content @param {number} mode */
function write(to, content, mode) {
  mkdirSync(dirname(to), { recursive: true });
  writeFileSync(to, content);
  chmodSync(to, mode);
}

/** @param {string} file @param {unknown} error */
function notBuilt(file, error) {
  if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) return error;
  return new SetupError(`${file} has not been built.`, 'Build everything first: npm run build');
}
