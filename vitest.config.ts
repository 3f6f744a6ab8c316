import { defineConfig } from 'vitest/config';

const shared = { testTimeout: 120_000, hookTimeout: 120_000 };

export default defineConfig({
  test: {
    reporters: ['default', './scripts/lib/outcome-reporter.mjs'],
    projects: [
      {
        // Most of their time they wait for processes that they have started.
        test: {
          ...shared,
          name: 'packages',
          include: ['packages/*/test/**/*.test.ts'],
          maxWorkers: 3,
          sequence: { groupOrder: 0 },
        },
      },
      {
        // They boot virtual machines and measure them: one file at a time, and nothing else beside it.
        test: {
          ...shared,
          name: 'machines',
          include: ['tests/**/*.test.ts'],
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
