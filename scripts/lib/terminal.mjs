// What every script here shares: a failure that tells the user what to do, and commands whose output goes to a log.
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const repoRoot = join(dirname(fileURLToPath(import.meta.url)), '../..');
export const stateDir = join(repoRoot, '.cache');

const EXCERPT_HEAD_LINES = 12;
const EXCERPT_TAIL_LINES = 40;
const CAPTURE_BYTES_MAX = 64 * 2 ** 20;

/** A failure the user can mend: one sentence that says what is wrong, and one that says what to do. */
export class SetupError extends Error {
  /** @param {string} message @param {string} hint */
  constructor(message, hint) {
    super(message);
    this.name = 'SetupError';
    this.hint = hint;
  }
}

/**
 * Prints a line for the user: to stderr where `--json` asks for nothing but JSON on stdout.
 * @param {string} line
 */
export function say(line) {
  (process.argv.includes('--json') ? process.stderr : process.stdout).write(`${line}\n`);
}

/**
 * Creates `.cache`, which ignores itself so that no checkout lists it as untracked.
 * @param {string} name of a log file, without its extension
 * @returns {string} the log file's path
 */
export function logFile(name) {
  const directory = join(stateDir, 'logs');
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(stateDir, '.gitignore'), '*\n');
  return join(directory, `${name}.log`);
}

/**
 * What to show of the last command in a log: its beginning, where npm and apt say what is wrong, and its end, where
 * everything else does.
 * @param {string} file
 */
export function excerpt(file) {
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
  const command = lines.slice(lines.findLastIndex((line) => line.startsWith('$ ')));
  if (command.length <= EXCERPT_HEAD_LINES + EXCERPT_TAIL_LINES) return command.join('\n');
  const cut = `… ${command.length - EXCERPT_HEAD_LINES - EXCERPT_TAIL_LINES} lines …`;
  return [...command.slice(0, EXCERPT_HEAD_LINES), cut, ...command.slice(-EXCERPT_TAIL_LINES)].join('\n');
}

/**
 * Runs a program to its end, with its output in a log file and, when `live`, on the terminal too.
 * @param {string} file
 * @param {readonly string[]} args
 * @param {{ log: string, live?: boolean, env?: NodeJS.ProcessEnv, cwd?: string, onOutput?: (text: string) => void }} options
 * @returns {Promise<number>} the exit code; 127 when the program does not exist, 128 when a signal ended it
 */
export async function runLogged(file, args, { log, live = false, env = process.env, cwd = repoRoot, onOutput }) {
  const output = openSync(log, 'a');
  try {
    writeFileSync(output, `$ ${[file, ...args].join(' ')}\n`);
    const child = spawn(file, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        writeFileSync(output, chunk);
        if (live) process.stdout.write(chunk);
        onOutput?.(chunk.toString());
      });
    }
    return await new Promise((resolve) => {
      child.once('error', (error) => {
        writeFileSync(output, `${error.message}\n`);
        resolve(127);
      });
      child.once('close', (code) => resolve(code ?? 128));
    });
  } finally {
    closeSync(output);
  }
}

/** The output of a program; empty if it does not run. @param {string} file @param {readonly string[]} args */
export function capture(file, args) {
  return spawnSync(file, args, { encoding: 'utf8', cwd: repoRoot, maxBuffer: CAPTURE_BYTES_MAX }).stdout ?? '';
}

/** @param {number} startedAtMs a reading of performance.now() */
export function seconds(startedAtMs) {
  return `${((performance.now() - startedAtMs) / 1000).toFixed(1)} s`;
}
