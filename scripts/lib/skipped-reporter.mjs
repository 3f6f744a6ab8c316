// A vitest reporter that notes each skipped test with the reason given to `context.skip(reason)`, for the end of `npm test`.
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { repoRoot, stateDir } from './terminal.mjs';

export default class SkippedReporter {
  /** @param {readonly import('vitest/node').TestModule[]} modules */
  onTestRunEnd(modules) {
    const skipped = modules.flatMap((module) =>
      [...module.children.allTests('skipped')].map((test) => ({
        test: `${path.relative(repoRoot, module.moduleId)} > ${test.fullName}`,
        reason: test.result().note ?? '',
      })),
    );
    mkdirSync(path.join(stateDir, 'logs'), { recursive: true });
    writeFileSync(path.join(stateDir, 'logs/skipped.json'), JSON.stringify(skipped));
  }
}
