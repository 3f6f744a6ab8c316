import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { REPO } from '@forkd/testing';
import { runProgram } from './python-environment.ts';

const INSTALL_TIMEOUT_MS = 300_000;

/** Files that run side by side may want the same packages: the first installs them, and the others wait for its lock. */
const INSTALL = `
set -e
dir="$1"; shift
if [ -e "$dir/installed" ]; then exit; fi
rm -rf "$dir"
mkdir -p "$dir"
echo '{"private":true,"type":"module"}' > "$dir/package.json"
npm install --prefix "$dir" --no-audit --no-fund --ignore-scripts --save-exact "$@"
touch "$dir/installed"
`;

/** A directory that has npm packages, kept between runs; or why there is none. */
export async function installNode(...packages: readonly string[]): Promise<{ dir: string } | { missing: string }> {
  const wanted = createHash('sha256').update(packages.join(' ')).digest('hex').slice(0, 12);
  const dir = join(REPO, '.cache/npm', wanted);
  await mkdir(join(REPO, '.cache/npm'), { recursive: true });
  const install = [`${dir}.lock`, 'sh', '-c', INSTALL, 'sh', dir, ...packages];
  const { code, output } = await runProgram('flock', install, INSTALL_TIMEOUT_MS);
  return code === 0 ? { dir } : { missing: `${packages.join(' ')} could not be installed: ${output.slice(-500)}` };
}
