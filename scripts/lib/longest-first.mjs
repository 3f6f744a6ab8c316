// A vitest sequencer: the files that take longest start first, so that the workers end at about the same time.
import { relative } from 'node:path';
import { BaseSequencer } from 'vitest/node';
import { repoRoot } from './terminal.mjs';

/** The files that take longest. In a new checkout vitest only knows the sizes of files, and small files can take long. */
const LONGEST = [
  'tests/clients/e2b.test.ts',
  'packages/images/test/root.test.ts',
  'tests/e2e/kvm-lane.test.ts',
  'tests/fault/kills.test.ts',
  'tests/conformance/wire.test.ts',
  'tests/e2e/package.test.ts',
  'tests/e2e/branch-invariant.test.ts',
  'tests/fuzz/api.test.ts',
  'tests/e2e/cli.test.ts',
  'tests/e2e/limited-host.test.ts',
  'tests/fault/crash.test.ts',
  'tests/e2e/bench.test.ts',
  'tests/e2e/large-guest.test.ts',
  'packages/guest/test/hostile.test.ts',
  'packages/controller/test/hostile-guests.test.ts',
  'tests/e2e/firecracker-controller.test.ts',
  'tests/e2e/safety.test.ts',
  'tests/e2e/random.test.ts',
  'tests/e2e/isolation.test.ts',
  'tests/e2e/layer-memory.test.ts',
  'packages/cli/test/completion.test.ts',
];

export default class LongestFirst extends BaseSequencer {
  /** @param {import('vitest/node').TestSpecification[]} files */
  async sort(files) {
    // oxlint-disable-next-line unicorn/no-array-sort -- not the method of arrays.
    const sorted = await super.sort(files);
    return sorted.toSorted((a, b) => rank(a) - rank(b));
  }
}

/** @param {import('vitest/node').TestSpecification} file */
function rank({ moduleId }) {
  const place = LONGEST.indexOf(relative(repoRoot, moduleId));
  return place === -1 ? LONGEST.length : place;
}
