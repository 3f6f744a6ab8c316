// Asks a real controller what nobody would, for as long as wanted:  npm run fuzz -- [--minutes N] [--seed N]
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { repoRoot } from './lib/terminal.mjs';

const { values } = parseArgs({ options: { minutes: { type: 'string', default: '10' }, seed: { type: 'string' } } });
if (!(Number(values.minutes) > 0)) throw new Error(`--minutes: '${values.minutes}' is not a time`);

const { status } = spawnSync(join(repoRoot, 'node_modules/.bin/vitest'), ['run', 'tests/fuzz'], {
  cwd: repoRoot,
  stdio: 'inherit',
  env: {
    ...process.env,
    FORKD_FUZZ_MINUTES: values.minutes,
    ...(values.seed !== undefined && { FORKD_FUZZ_SEED: values.seed }),
  },
});
process.exitCode = status ?? 1;
