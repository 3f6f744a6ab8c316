// `npm run bench`: set-up, then all benchmarks, whose figures, charts and page go to bench/. With `-- --quick` a smoke run of a
// minute, whose files go to .cache/bench-quick.
import { join } from 'node:path';
import { setUpAndRun } from './lib/forward.mjs';
import { SetupError, excerpt, logFile, repoRoot, runLogged } from './lib/terminal.mjs';
import { runMain } from './setup.mjs';

await runMain(async () => {
  const code = await setUpAndRun('bench/harness/dist/main.js');
  if (code === 0 && !process.argv.includes('--quick')) await format();
  return code;
});

/** What is generated is checked in, and formatted as everything else is. */
async function format() {
  const log = logFile('bench-format');
  const code = await runLogged(join(repoRoot, 'node_modules/.bin/oxfmt'), ['bench/RESULTS.md', 'bench/results'], {
    log,
  });
  if (code !== 0) throw new SetupError(`The page could not be formatted:\n${excerpt(log)}`, 'npm run format');
}
