/**
 * The Python SDK by itself: its sources have the form that ruff wants and the types that mypy proves, and both clients do what
 * python/tests says with peers that lose replies, lie, or say nothing. tests/clients has its tests with guests.
 */
import { join } from 'node:path';
import { REPO } from '@forkd/testing';
import { expect, test } from 'vitest';
import { installPython, runProgram } from '../python-environment.ts';

const TIMEOUT_MS = 300_000;
/** The Python files of the repository that are formatted and checked. */
const FOLDERS = ['src', 'tests', '../tests/python', '../examples'];
const CONFIG = ['--config', 'pyproject.toml'];

const python = await installPython(join(REPO, 'tests/python/requirements.txt'));

test.for([
  ['is formatted', ['ruff', 'format', '--check', ...CONFIG, ...FOLDERS]],
  ['has nothing that the linter finds', ['ruff', 'check', ...CONFIG, ...FOLDERS]],
  ['has the types that it says', ['mypy', 'src', 'tests']],
  ['does what its tests say with peers that are no controller', ['pytest', '--quiet', 'tests']],
] as const)('the SDK %s', { timeout: TIMEOUT_MS }, async ([, [module, ...args]], { skip }) => {
  if ('missing' in python) return skip(python.missing);
  const cwd = join(REPO, 'python');
  const env = { ...process.env, PYTHONPATH: 'src', PYTHONDONTWRITEBYTECODE: '1' };
  const run = await runProgram(join(python.bin, 'python'), ['-m', module, ...args], TIMEOUT_MS, { cwd, env });
  expect([run.code, run.code === 0 ? '' : run.output]).toEqual([0, '']);
});
