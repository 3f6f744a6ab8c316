import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { REPO } from '@forkd/testing';

const INSTALL_TIMEOUT_MS = 300_000;

/** The directory of the programs, or why there is none. */
export type Installed = { bin: string } | { missing: string };

export interface ProgramRun {
  code: number | null;
  /** The output of the program on both streams. */
  output: string;
  stdout: string;
}

/** Files that run side by side may want the same packages: the first installs them, and the others wait for its lock. */
const INSTALL = `
set -e
if [ -e "$1/installed" ]; then exit; fi
rm -rf "$1"
python3 -m venv "$1"
"$1/bin/python" -m pip install --quiet --only-binary :all: -r "$2"
touch "$1/installed"
`;

/** A directory of programs with the packages of a requirements file, kept between runs; or why there is none. */
export async function installPython(requirements: string): Promise<Installed> {
  const wanted = createHash('sha256')
    .update(await readFile(requirements))
    .digest('hex')
    .slice(0, 12);
  const venv = join(REPO, '.cache/python', wanted);
  await mkdir(dirname(venv), { recursive: true });
  const install = [`${venv}.lock`, 'sh', '-c', INSTALL, 'sh', venv, requirements];
  const { code, output } = await runProgram('flock', install, INSTALL_TIMEOUT_MS);
  return code === 0
    ? { bin: join(venv, 'bin') }
    : { missing: `${requirements} could not be installed: ${output.slice(-500)}` };
}

export async function runProgram(
  file: string,
  args: readonly string[],
  timeoutMs: number,
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<ProgramRun> {
  const child: ChildProcess = spawn(file, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs });
  let output = '';
  let stdout = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    output += chunk.toString();
    stdout += chunk.toString();
  });
  child.stderr?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  try {
    const [code] = (await once(child, 'close')) as [number | null];
    return { code, output, stdout };
  } catch (error) {
    return { code: null, output: String(error), stdout };
  }
}
