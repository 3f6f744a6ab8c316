/**
 * The README's "Use it", word for word: each line of its shell block, and its program, in a data directory where nothing runs yet.
 * Only the ids that the README makes up are replaced by those that the commands print.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { REPO, requireBuilt, TEST_CACHE } from '@forkd/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';

const FORKD = join(REPO, 'packages/cli/bundle/forkd.js');
/** The README's ids, and the command whose first line of output is the id here. */
const ids = {
  'sb-4f': 'forkd fork --tag py -n 3',
  'sb-9a': 'forkd fork --tag later',
  'sb-7c': 'forkd fork --tag net',
} as const;
/** Exit codes other than 0. */
const exitCodes: Record<string, number> = { "forkd exec sb-4f -- python3 -c 'import sys; sys.exit(7)'": 7 };
/** `attach` follows a command that never ends, so it ends with its reader, after a line. */
const readers: Record<string, string> = { 'forkd attach sb-9a': 'head -n 1' };

let dir: string;
let dataDir: string;

beforeAll(async () => {
  await requireBuilt();
  await mkdir(TEST_CACHE, { recursive: true });
  // Below the checkout, so that a program finds its packages, and the socket's path is short.
  dir = await mkdtemp(join(TEST_CACHE, 'readme-'));
  dataDir = await mkdtemp('/tmp/fk-');
  await symlink(TEST_CACHE, join(dataDir, 'cache'));
  await mkdir(join(dir, 'data'));
});

afterAll(async () => {
  await run('forkd stop --kill');
  await rm(dir, { recursive: true });
  await rm(dataDir, { recursive: true });
});

test('every line of the README works, and so does its program', { timeout: 900_000 }, async () => {
  const readme = await readFile(join(REPO, 'README.md'), 'utf8');
  const [, use = ''] = readme.split('\n## Use it\n');
  const lines = blockOf(use, 'sh').map((line) => line.replace(/\s+#.*$/, ''));
  expect(lines.length).toBeGreaterThan(10);
  const clean = lines.pop() ?? '';
  const known = new Map<string, string>();
  for (const line of lines) {
    const stdout = await expectRun(line, known);
    for (const [id, source] of Object.entries(ids)) {
      if (line === source) known.set(id, /^(sb-\w+)/.exec(stdout)?.[1] ?? 'no id');
    }
  }
  expect([...known.keys()]).toEqual(Object.keys(ids));
  await writeFile(join(dir, 'program.mjs'), blockOf(use, 'ts').join('\n'));
  await expectRun(`'${process.execPath}' program.mjs`, known);
  await expectRun(clean, known);
  expect(JSON.parse(await expectRun('forkd ls --json', known))).toEqual([]);
});

function blockOf(text: string, language: string): string[] {
  return (new RegExp(`\`\`\`${language}\n([^]*?)\n\`\`\``).exec(text)?.[1] ?? '').split('\n');
}

/** Runs a line that must end as expected, and returns its output. */
async function expectRun(line: string, known: ReadonlyMap<string, string>): Promise<string> {
  const reader = readers[line];
  let command = reader === undefined ? line : `${line} | ${reader}`;
  for (const [id, found] of known) command = command.replaceAll(id, found);
  const { code, stdout, stderr } = await run(command);
  if (code !== (exitCodes[line] ?? 0)) throw new Error(`'${line}' ended with ${code}: ${stdout}${stderr}`);
  if (reader !== undefined) expect(stdout).not.toBe('');
  return stdout;
}

function run(command: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const { FORKD_URL: _, FORKD_SOCKET: __, ...rest } = process.env;
  const env = { ...rest, FORKD_DATA_DIR: dataDir };
  const script = `alias forkd="'${process.execPath}' '${FORKD}'"\nset -e\n${command}`;
  return new Promise((resolve) => {
    execFile('sh', ['-c', script], { env, cwd: dir }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
    });
  });
}
