import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { builds, prepare } from '../setup.mjs';
import { repoRoot } from './terminal.mjs';

/**
 * Set-up, then a built program with this process' own arguments.
 * @param {string} program its path in the repository
 * @param {...string} args come before this process' own
 * @returns {Promise<number>} the program's exit code
 */
export async function setUpAndRun(program, ...args) {
  await prepare();
  for (const build of Object.values(builds)) await build();
  const file = join(repoRoot, program);
  const child = spawn(process.execPath, [file, ...args, ...process.argv.slice(2)], { stdio: 'inherit' });
  // Ctrl-C reaches the child by itself; this process has to outlive it, to pass its exit code on.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? 1));
  });
}
