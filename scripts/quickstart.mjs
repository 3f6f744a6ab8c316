// `npm run quickstart`: set-up, then the CLI's own quickstart with the same arguments and the same exit code.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { repoRoot } from './lib/terminal.mjs';
import { builds, prepare, runMain } from './setup.mjs';

await runMain(async () => {
  await prepare();
  for (const build of Object.values(builds)) await build();
  const cli = path.join(repoRoot, 'packages/cli/dist/main.js');
  const child = spawn(process.execPath, [cli, 'quickstart', ...process.argv.slice(2)], { stdio: 'inherit' });
  // Ctrl-C reaches the child by itself; this process has to outlive it, to pass its exit code on.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? 1));
  });
});
