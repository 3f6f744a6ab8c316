import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { REPO } from '@forkd/testing';

const INSTALL_TIMEOUT_MS = 300_000;

export interface ProgramRun {
  code: number | null;
  /** The output of the program on both streams. */
  output: string;
}

/** A directory of programs with the packages of a requirements file, kept between runs; or why there is none. */
export async function installPython(requirements: string): Promise<{ bin: string } | { missing: string }> {
  const wanted = createHash('sha256')
    .update(await readFile(requirements))
    .digest('hex')
    .slice(0, 12);
  const venv = join(REPO, '.cache/python', wanted);
  const bin = join(venv, 'bin');
  const done = join(venv, 'installed');
  if (existsSync(done)) return { bin };
  await rm(venv, { recursive: true, force: true });
  await mkdir(dirname(venv), { recursive: true });
  const steps: [string, string[]][] = [
    ['python3', ['-m', 'venv', venv]],
    [join(bin, 'python'), ['-m', 'pip', 'install', '--quiet', '--only-binary', ':all:', '-r', requirements]],
  ];
  for (const [file, args] of steps) {
    const { code, output } = await runProgram(file, args, INSTALL_TIMEOUT_MS);
    if (code !== 0) return { missing: `${file} ${args.join(' ')} failed: ${output.slice(-500)}` };
  }
  await writeFile(done, '');
  return { bin };
}

export async function runProgram(
  file: string,
  args: readonly string[],
  timeoutMs: number,
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<ProgramRun> {
  const child: ChildProcess = spawn(file, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs });
  let output = '';
  child.stdout?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  try {
    const [code] = (await once(child, 'close')) as [number | null];
    return { code, output };
  } catch (error) {
    return { code: null, output: String(error) };
  }
}
