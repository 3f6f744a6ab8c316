/** The Python SDK of this repository as a user gets it: a wheel, in a virtual environment of its own. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { REPO } from '@forkd/testing';
import { type Installed, runProgram } from '../python-environment.ts';

const TIMEOUT_MS = 300_000;

/** Builds the wheel and installs it below `dir`. `tools` has the build system, and pip. */
export async function installOwnPackage(tools: Installed, dir: string): Promise<Installed> {
  if ('missing' in tools) return tools;
  const python = join(tools.bin, 'python');
  const wheels = join(dir, 'wheels');
  const venv = join(dir, 'venv');
  await run(python, ['-m', 'hatchling', 'build', '-t', 'wheel', '-d', wheels], join(REPO, 'python'));
  const [wheel = 'no wheel', ...others] = await readdir(wheels);
  if (others.length > 0) throw new Error(`More than one wheel was built: ${[wheel, ...others].join(', ')}`);
  await run(python, ['-m', 'venv', '--without-pip', venv], dir);
  const install = ['-m', 'pip', '--python', join(venv, 'bin/python'), 'install', '--quiet', join(wheels, wheel)];
  await run(python, install, dir);
  return { bin: join(venv, 'bin') };
}

export interface PageProgram {
  page: string;
  program: string;
  /** The output of the program, as the page says. */
  prints: string;
}

/** The Python programs of a page, each with the block of text after it. One marked `no-run` is left out: it builds the template. */
export async function programsOf(page: string): Promise<PageProgram[]> {
  const text = await readFile(join(REPO, page), 'utf8');
  const blocks = text.matchAll(/```python\n([^]*?)```(?:\n\n```text\n([^]*?)```)?/g);
  return [...blocks].map(([, program = '', prints = '']) => ({ page, program, prints }));
}

async function run(file: string, args: readonly string[], cwd: string): Promise<void> {
  const { code, output } = await runProgram(file, args, TIMEOUT_MS, { cwd });
  if (code !== 0) throw new Error(`${file} ${args.join(' ')} failed: ${output}`);
}
