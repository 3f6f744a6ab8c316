import { defineConfig } from 'vitest/config';
import LongestFirst from './scripts/lib/longest-first.mjs';

/**
 * A busy host can take the time of any test, so that one which ran out of it has a second try, and `npm test` names it at its end.
 * A test that got a wrong answer has none.
 */
const retry = { count: 1, condition: /^Test timed out in \d+ms|^not within \d+ ms: / };

/**
 * Virtual machines keep a processor busy, and most other tests wait for processes that they have started: the files of both
 * projects run beside each other, one more at a time than a small host has processors.
 */
const WORKERS = 3;

/** Files that measure turns of the event loop, which are longer where other files have left much in memory. */
const MEASURING = 'packages/*/test/hostile*.test.ts';

const shared = {
  testTimeout: 120_000,
  hookTimeout: 120_000,
  retry,
  globalSetup: './scripts/lib/bundle-setup.mjs',
  maxWorkers: WORKERS,
};

export default defineConfig({
  test: {
    reporters: ['default', './scripts/lib/outcome-reporter.mjs'],
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        // A worker loads what the files share once. Tests put back what they change of a process.
        test: {
          ...shared,
          name: 'packages',
          include: ['{packages/*,bench/harness}/test/**/*.test.ts'],
          exclude: [MEASURING],
          isolate: false,
        },
      },
      { test: { ...shared, name: 'measuring', include: [MEASURING] } },
      {
        test: { ...shared, name: 'machines', include: ['tests/**/*.test.ts'], globalSetup: ['tests/global-setup.ts'] },
      },
    ],
  },
});
