// A vitest reporter for the end of `npm test`: which tests failed, which passed only when they were tried again, and which were
// skipped with what given to `context.skip(reason)`.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { repoRoot, stateDir } from './terminal.mjs';

export default class OutcomeReporter {
  /**
   * @param {readonly import('vitest/node').TestModule[]} modules
   * @param {readonly import('vitest/node').SerializedError[]} unhandled
   */
  onTestRunEnd(modules, unhandled) {
    const skipped = modules.flatMap((module) => outcomes(module, 'skipped', (test) => test.result().note ?? ''));
    const failed = modules.flatMap((module) => [
      ...module.errors().map((error) => ({ test: nameOf(module), reason: firstLine(error) })),
      ...outcomes(module, 'failed', errorsOf),
    ]);
    const retried = modules.flatMap((module) =>
      outcomes(module, 'passed', errorsOf, (test) => test.diagnostic()?.flaky === true),
    );
    failed.push(...unhandled.map((error) => ({ test: 'outside of any test', reason: firstLine(error) })));
    mkdirSync(join(stateDir, 'logs'), { recursive: true });
    writeFileSync(join(stateDir, 'logs/outcome.json'), JSON.stringify({ failed, retried, skipped }));
  }
}

/**
 * @param {import('vitest/node').TestModule} module
 * @param {'failed' | 'passed' | 'skipped'} state
 * @param {(test: import('vitest/node').TestCase) => string} reasonOf
 * @param {(test: import('vitest/node').TestCase) => boolean} [isMeant] all by default
 */
function outcomes(module, state, reasonOf, isMeant = () => true) {
  return [...module.children.allTests(state)].filter(isMeant).map((test) => ({
    test: `${nameOf(module)} > ${test.fullName}`,
    reason: reasonOf(test),
  }));
}

/** @param {import('vitest/node').TestCase} test */
function errorsOf(test) {
  return (test.result().errors ?? []).map(firstLine).join('; ');
}

/** @param {import('vitest/node').TestModule} module */
function nameOf(module) {
  return relative(repoRoot, module.moduleId);
}

/** @param {{ message: string }} error */
function firstLine({ message }) {
  return stripVTControlCharacters(message).split('\n')[0] ?? '';
}
