// `npm test`: set-up, then every check of the repository, with a table of what happened.
//   npm test -- --only STEP[,STEP] [arguments for the step's command]
// Some steps run beside each other. A step that fails does not stop the others. The exit code is 0 only when every step passed.
import { existsSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { SetupError, excerpt, logFile, repoRoot, runLogged, say, seconds, stateDir } from './lib/terminal.mjs';
import { builds, installNodeModules, installTestPrograms, prepareBuild, runMain } from './setup.mjs';

const FOLDERS = ['packages', 'scripts', 'tests', 'bench', 'examples'];
/** Files that the steps `cargo` and `generated` have just written anew. */
const GENERATED = [
  'packages/engine/src/net/wire.ts',
  'packages/engine/src/pager/wire.ts',
  'packages/guest/src/agent-wire.ts',
  'docs/operate/engines.md',
  'python/src/forkd',
];
const OUTCOME_FILE = join(stateDir, 'logs/outcome.json');

/**
 * @typedef {object} Step
 * @property {string} name
 * @property {(readonly string[])[]} commands run in order until one fails
 * @property {boolean} [live] long enough that its output is worth watching
 */

/** @typedef {{ name: string, ok: boolean, time: string }} Result */

/** What the steps need. The parts of a row run one after the other, and the rows beside each other. */
const preparation = [
  [{ name: 'test programs', run: installTestPrograms }],
  [
    { name: 'npm packages', run: installNodeModules },
    { name: 'build typescript', run: builds.typescript },
    { name: 'build programs', run: builds.programs },
  ],
  [
    { name: 'build rust', run: builds.rust },
    { name: 'build guest', run: builds.guest },
  ],
];

/** Steps that change no file of the repository. @type {Step[]} */
const lints = [
  { name: 'format', commands: [bin('oxfmt', '--check', ...FOLDERS)] },
  { name: 'lint', commands: [bin('oxlint', '--type-aware', '--deny-warnings', ...FOLDERS)] },
  { name: 'types', commands: [bin('tsc', '-b'), ...testProjects().map((project) => bin('tsc', '-p', project))] },
  { name: 'knip', commands: [bin('knip')] },
  { name: 'rustfmt', commands: [['cargo', 'fmt', '--check']] },
];
/** Compiles most of the time, beside those. @type {Step} */
const clippy = {
  name: 'clippy',
  commands: [['cargo', 'clippy', '--locked', '--all-targets', '--', '-D', 'warnings']],
};
/** @type {Step[]} */
const suites = [
  { name: 'cargo', commands: [['cargo', 'test', '--locked']], live: true },
  {
    name: 'generated',
    commands: [
      [process.execPath, 'scripts/engines.mjs'],
      [process.execPath, 'scripts/python-sdk.mjs'],
      ['git', 'diff', '--exit-code', '--', ...GENERATED],
    ],
  },
  { name: 'vitest', commands: [bin('vitest', 'run')], live: true },
];

await runMain(async () => {
  const { isChosen, extra } = chooseSteps(process.argv.slice(2));
  await prepareBuild();
  rmSync(OUTCOME_FILE, { force: true });
  const run = (/** @type {Step} */ step) => runStep(step, extra);
  const results = [
    ...(await beside(preparation, runPart)),
    ...(await beside([lints.filter(isChosen), [clippy].filter(isChosen)], run)),
    ...(await beside([suites.filter(isChosen)], run)),
  ];
  printSummary(results);
  return results.every((result) => result.ok) ? 0 : 1;
});

/** @param {string} program of node_modules @param {...string} args */
function bin(program, ...args) {
  return [join(repoRoot, 'node_modules/.bin', program), ...args];
}

/** Tests are no part of any package's build: each folder of them that has a tsconfig.json is checked by itself. */
function testProjects() {
  const packages = readdirSync(join(repoRoot, 'packages')).map((name) => `packages/${name}/test`);
  return [...packages, 'bench/harness/test', 'tests'].filter((folder) =>
    existsSync(join(repoRoot, folder, 'tsconfig.json')),
  );
}

/** @param {string[]} argv */
function chooseSteps(argv) {
  if (argv.length === 0) return { isChosen: () => true, extra: [] };
  const names = [...lints, clippy, ...suites].map((step) => step.name);
  const [flag, list = '', ...extra] = argv;
  const wanted = list.split(',');
  if (flag !== '--only' || wanted.some((name) => !names.includes(name))) {
    throw new SetupError(
      `npm test does not know '${argv.join(' ')}'.`,
      `Use: npm test -- --only STEP[,STEP] [arguments]; the steps are ${names.join(', ')}.`,
    );
  }
  return { isChosen: (/** @type {Step} */ { name }) => wanted.includes(name), extra };
}

/**
 * Runs the parts of each row one after the other, and the rows beside each other.
 * @template Part
 * @param {readonly (readonly Part[])[]} rows @param {(part: Part) => Promise<Result>} run
 * @returns {Promise<Result[]>} in the order of the rows
 */
async function beside(rows, run) {
  const results = rows.map(async (row) => {
    const done = [];
    for (const part of row) done.push(await run(part));
    return done;
  });
  return (await Promise.all(results)).flat();
}

/**
 * A part that does not compile fails the run, and yet the other parts are checked.
 * @param {{ name: string, run: () => Promise<void> }} part @returns {Promise<Result>}
 */
async function runPart({ name, run }) {
  const startedAt = performance.now();
  const result = { name, ok: true, time: '' };
  try {
    await run();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(`${error.message}\n  ${error.hint}`);
    result.ok = false;
  }
  return { ...result, time: seconds(startedAt) };
}

/**
 * @param {Step} step @param {readonly string[]} extra arguments for the step's last command
 * @returns {Promise<Result>}
 */
async function runStep({ name, commands, live = false }, extra) {
  const startedAt = performance.now();
  const log = logFile(`test-${name}`);
  rmSync(log, { force: true });
  if (live) say(`\n${name}`);
  let code = 0;
  for (const [index, [file, ...args]] of commands.entries()) {
    const all = index === commands.length - 1 ? [...args, ...extra] : args;
    code = await runLogged(file, all, { log, live });
    if (code !== 0) break;
  }
  const ok = code === 0;
  if (!ok && !live) say(excerpt(log));
  say(
    `${name}: ${ok ? 'ok' : 'FAILED'} in ${seconds(startedAt)}${ok ? '' : `, all of it in ${relative(repoRoot, log)}`}`,
  );
  return { name, ok, time: seconds(startedAt) };
}

/** @param {Result[]} results */
function printSummary(results) {
  say('\nsummary');
  for (const { name, ok, time } of results)
    say(`  ${name.padEnd(18)}${(ok ? 'ok' : 'FAILED').padEnd(8)}${time.padStart(9)}`);
  const { failed, retried, skipped } = outcomeOfVitest();
  failed.push(...testsOfCargo(results, 'FAILED'));
  skipped.push(...testsOfCargo(results, 'ignored'));
  if (skipped.length > 0) printTests(`${skipped.length} tests were skipped:`, skipped);
  else say('\nno test was skipped');
  if (retried.length > 0) printTests(`${retried.length} tests passed only when tried again:`, retried);
  if (failed.length > 0) printTests(`${failed.length} tests failed:`, failed);
}

/** @param {string} heading @param {{ test: string, reason: string }[]} tests */
function printTests(heading, tests) {
  say(`\n${heading}`);
  for (const { test, reason } of tests) say(`  ${test}\n    ${reason || 'no reason given'}`);
}

/**
 * As `lib/outcome-reporter.mjs` wrote it.
 * @returns {Record<'failed' | 'retried' | 'skipped', { test: string, reason: string }[]>}
 */
function outcomeOfVitest() {
  if (!existsSync(OUTCOME_FILE)) return { failed: [], retried: [], skipped: [] };
  return JSON.parse(readFileSync(OUTCOME_FILE, 'utf8'));
}

/** @param {{ name: string }[]} results @param {'FAILED' | 'ignored'} word what cargo prints behind the test's name */
function testsOfCargo(results, word) {
  if (!results.some(({ name }) => name === 'cargo')) return [];
  const lines = readFileSync(logFile('test-cargo'), 'utf8').matchAll(
    /^test (.+) \.\.\. (FAILED|ignored)(?:, (.*))?$/gm,
  );
  return [...lines].flatMap(([, test = '', found, reason = '']) => (found === word ? [{ test, reason }] : []));
}
