// `npm run bench`: set-up, then the benchmark of the two headline figures, each beside its floor.
import { setUpAndRun } from './lib/forward.mjs';
import { runMain } from './setup.mjs';

await runMain(() => setUpAndRun('bench/dist/fork-and-branch/main.js'));
