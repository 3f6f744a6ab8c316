/** Exports for tests only: these modules need vitest around them. */
export { test } from './fixture.ts';
export { expectGettingOn, expectIntact, look, type Seen } from './intact.ts';
