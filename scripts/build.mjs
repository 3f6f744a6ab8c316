// `npm run build`: compiles everything, after `npm ci`. It is what the set-up does once the host has what it needs.
import { builds, runMain } from './setup.mjs';

await runMain(async () => {
  for (const build of Object.values(builds)) await build();
  return 0;
});
