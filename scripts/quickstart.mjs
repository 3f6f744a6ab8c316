// `npm run quickstart`: set-up, then the CLI's own quickstart with the same arguments and the same exit code.
import { setUpAndRun } from './lib/forward.mjs';
import { runMain } from './setup.mjs';

await runMain(() => setUpAndRun('packages/cli/bundle/forkd.js', 'quickstart'));
