// `npm run sanitize`: the tests of the Rust core under the address sanitizer (use of freed memory, overflows, leaks) and under
// the thread sanitizer (data races), with a table of what happened. The exit code is 0 only when nothing was found.
// Both are compiled into everything, the standard library too: without it the thread sanitizer does not see its locks, and
// finds races where there are none. That takes its source, and options that stable compilers have only under a switch.
import { readFileSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { installPackages, missingPackages } from './lib/debian.mjs';
import { SetupError, excerpt, logFile, repoRoot, runLogged, say, seconds } from './lib/terminal.mjs';
import { prepare, runMain } from './setup.mjs';

const CRATES = [
  'forkd-capture',
  'forkd-disk',
  'forkd-layers',
  'forkd-linux-sys',
  'forkd-log',
  'forkd-net',
  'forkd-pager',
  'forkd-protocol',
];
const TARGET = 'x86_64-unknown-linux-gnu';
const BUILD = ['-Zbuild-std', '--locked', '--target', TARGET];
const FOLDER = join(repoRoot, 'scripts/sanitize');
const TARGET_DIR = join(process.env['CARGO_TARGET_DIR'] ?? join(repoRoot, 'target'), 'sanitize');

/**
 * @typedef {object} Sanitizer
 * @property {string} name what the compiler calls it, and the name of its canary
 * @property {RegExp} canary what it says of that one
 * @property {Record<string, string>} options
 */

/** @type {Sanitizer[]} */
const sanitizers = [
  { name: 'address', canary: /AddressSanitizer: heap-use-after-free/, options: {} },
  {
    name: 'thread',
    canary: /ThreadSanitizer: data race/,
    // With a shorter memory of what each thread did it says nothing of a race whose other half it has forgotten.
    options: { TSAN_OPTIONS: `history_size=7 suppressions=${join(FOLDER, 'thread.supp')}` },
  },
];

/** @typedef {{ sanitizer: string, crate: string, result: string, tests: number, time: string }} Row */

await runMain(async () => {
  await prepare();
  const log = logFile('sanitize-setup');
  rmSync(log, { force: true });
  // Its symbolizer gives the addresses in a report their names, which the suppressions go by.
  await installPackages(missingPackages(['llvm']), log);
  await addStandardLibrarySource(log);
  /** @type {Row[]} */
  const rows = [];
  for (const sanitizer of sanitizers) {
    say(`\n${sanitizer.name} sanitizer`);
    await build(sanitizer);
    await findCanary(sanitizer);
    for (const crate of CRATES) rows.push(await testCrate(sanitizer, crate));
  }
  printSummary(rows);
  return rows.every(({ result }) => result === 'ok') ? 0 : 1;
});

/** What is there already is left alone, without the network. @param {string} log */
async function addStandardLibrarySource(log) {
  say("  Rust component rust-src, the standard library's source: added where it is missing");
  if ((await runLogged('rustup', ['component', 'add', 'rust-src'], { log })) === 0) return;
  throw new SetupError(
    `rustup could not add the source of Rust's standard library:\n${excerpt(log)}`,
    'See that this machine has rustup and reaches static.rust-lang.org, then run: rustup component add rust-src',
  );
}

/** @param {Sanitizer} sanitizer */
function environment({ name, options }) {
  const targetDir = join(TARGET_DIR, name);
  return {
    ...process.env,
    ...options,
    CARGO_TARGET_DIR: targetDir,
    RUSTC_BOOTSTRAP: '1',
    RUSTFLAGS: `-Zsanitizer=${name}`,
    // The protocol's tests write the types that they generate: not into the checkout.
    TS_RS_EXPORT_DIR: join(targetDir, 'bindings'),
  };
}

/**
 * @param {Sanitizer} sanitizer @param {string} what names the log
 * @param {readonly string[]} args of cargo
 * @returns {Promise<{ code: number, output: string, log: string }>}
 */
async function cargo(sanitizer, what, args) {
  const log = logFile(`sanitize-${sanitizer.name}-${what}`);
  rmSync(log, { force: true });
  const code = await runLogged('cargo', args, { log, env: environment(sanitizer) });
  return { code, output: readFileSync(log, 'utf8'), log };
}

/** @param {Sanitizer} sanitizer */
async function build(sanitizer) {
  const startedAt = performance.now();
  const packages = CRATES.flatMap((crate) => ['-p', crate]);
  const { code, log } = await cargo(sanitizer, 'build', ['test', ...BUILD, '--tests', '--no-run', ...packages]);
  if (code !== 0) {
    throw new SetupError(
      `the tests do not compile with the ${sanitizer.name} sanitizer:\n${excerpt(log)}`,
      `All of the output is in ${log}.`,
    );
  }
  say(`  compiled in ${seconds(startedAt)}`);
}

/** A sanitizer that does not find a planted fault has nothing to say about other code. @param {Sanitizer} sanitizer */
async function findCanary(sanitizer) {
  const manifest = join(FOLDER, 'canary/Cargo.toml');
  const run = ['run', ...BUILD, '--manifest-path', manifest, '--bin', sanitizer.name];
  const { code, output, log } = await cargo(sanitizer, 'canary', run);
  if (code === 0 || !sanitizer.canary.test(output)) {
    throw new SetupError(
      `the ${sanitizer.name} sanitizer does not find the fault that was planted for it:\n${excerpt(log)}`,
      'Its silence would mean nothing. Try another Rust release.',
    );
  }
  say('  finds the planted fault');
}

/**
 * The model of the capture has one thread and no unsafe code, and would take minutes.
 * @param {Sanitizer} sanitizer @param {string} crate
 * @returns {Promise<Row>}
 */
async function testCrate(sanitizer, crate) {
  const startedAt = performance.now();
  const run = ['test', ...BUILD, '--tests', '--no-fail-fast', '-p', crate, '--', '--skip', 'model::'];
  const { code, output, log } = await cargo(sanitizer, crate, run);
  const found = findings(output);
  const tests = [...output.matchAll(/^test result: .* (\d+) passed/gm)].reduce(
    (sum, [, count]) => sum + Number(count),
    0,
  );
  const result = found.size > 0 ? 'FOUND' : code !== 0 || tests === 0 ? 'FAILED' : 'ok';
  say(`  ${crate}: ${result}`);
  if (result === 'FAILED') say(excerpt(log));
  for (const finding of found) say(`    ${finding}`);
  if (result !== 'ok') say(`    all of it in ${relative(repoRoot, log)}`);
  return { sanitizer: sanitizer.name, crate, result, tests, time: seconds(startedAt) };
}

/** @param {string} output @returns {Set<string>} each fault's kind, and the line of ours that is nearest to it */
function findings(output) {
  const [first = '', ...rest] = output.split(/^SUMMARY: \w+Sanitizer: /m);
  const found = new Set();
  let report = first;
  for (const next of rest) {
    const [kind = ''] = next.split(/ \/|\n/, 1);
    const frames = report.slice(report.lastIndexOf('Sanitizer: '));
    found.add(`${kind}: ${/crates\/[^\s:]+:\d+/.exec(frames)?.[0] ?? 'in no line of ours'}`);
    report = next;
  }
  return found;
}

/** @param {Row[]} rows */
function printSummary(rows) {
  say(
    `\n${'sanitizer'.padEnd(12)}${'crate'.padEnd(18)}${'result'.padEnd(9)}${'tests'.padStart(5)}${'time'.padStart(10)}`,
  );
  for (const { sanitizer, crate, result, tests, time } of rows) {
    const counted = String(tests).padStart(5);
    say(`${sanitizer.padEnd(12)}${crate.padEnd(18)}${result.padEnd(9)}${counted}${time.padStart(10)}`);
  }
}
