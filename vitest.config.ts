import { defineConfig } from 'vitest/config';
import LongestFirst from './scripts/lib/longest-first.mjs';

/**
 * A busy host can take the time of any test, so that one which ran out of it has a second try, and `npm test` names it at its end.
 * A test that got a wrong answer has none.
 */
const retry = { count: 1, condition: /^Test timed out in \d+ms|^not within \d+ ms: / };

const shared = { testTimeout: 120_000, hookTimeout: 120_000, retry, globalSetup: './scripts/lib/bundle-setup.mjs' };

export default defineConfig({
  test: {
    reporters: ['default', './scripts/lib/outcome-reporter.mjs'],
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        // Most of their time they wait for processes that they have started.
        test: {
          ...shared,
          name: 'packages',
          include: ['{packages/*,bench/harness}/test/**/*.test.ts'],
          maxWorkers: 3,
          sequence: { groupOrder: 0 },
        },
      },
      {
        // They boot virtual machines, each of which has one of two processors to do: two files at a time, and nothing beside them.
        test: {
          ...shared,
          name: 'machines',
          include: ['tests/**/*.test.ts'],
          globalSetup: ['tests/global-setup.ts'],
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
