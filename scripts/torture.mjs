// `npm run torture`: set-up, then an hour of audited branches and honest callers beside everything that means harm.
//   npm run torture -- [--minutes N] [--json]
import { setUpAndRun } from './lib/forward.mjs';
import { runMain } from './setup.mjs';

await runMain(() => setUpAndRun('packages/cli/bundle/forkd.js', 'bench', 'torture'));
