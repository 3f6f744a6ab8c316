import { basename, relative } from 'node:path';
import { SetupError, excerpt, repoRoot, runLogged, say, seconds } from './terminal.mjs';

/** The words of npm, cargo and apt when a name cannot be resolved or nobody answers. */
const NO_NETWORK = /EAI_AGAIN|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|Could not resolve|failure resolving|Couldn't connect/i;
/** A step that takes longer than this says what it does, and again after each further interval. */
const SAY_FIRST_MS = 2_000;
const SAY_EVERY_MS = 10_000;

/**
 * Runs a command of the set-up. A long one prints what it is doing, and each prints at its end how long it took.
 * @param {string} title @param {string} file @param {readonly string[]} args @param {string} log
 * @param {NodeJS.ProcessEnv} [env]
 */
export async function step(title, file, args, log, env = process.env) {
  const startedAt = performance.now();
  const command = [basename(file), ...args].join(' ');
  let line = '';
  const tell = () => {
    say(`  ${title}: ${seconds(startedAt)} so far, ${line || command}`);
    timer = setTimeout(tell, SAY_EVERY_MS);
  };
  let timer = setTimeout(tell, SAY_FIRST_MS);
  const onOutput = (/** @type {string} */ text) => (line = text.trim().split('\n').at(-1)?.trim() ?? '');
  const code = await runLogged(file, args, { log, env, onOutput });
  clearTimeout(timer);
  if (code !== 0) {
    const output = excerpt(log);
    const offline = NO_NETWORK.test(output)
      ? `The network is missing, or a package registry cannot be reached. Once it can: ${command}\n  `
      : '';
    throw new SetupError(
      `${title}: '${command}' failed:\n${output}`,
      `${offline}The whole output is in ${relative(repoRoot, log)}.`,
    );
  }
  say(`  ${title}: ${seconds(startedAt)}`);
}
