// Proves that a user who lacks a right learns which one: to open the socket of a controller, to write to a data directory.
import { spawnSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';

const FORKD = fileURLToPath(new URL('../bundle/forkd.js', import.meta.url));
const CONTROLLER = fileURLToPath(new URL('../../controller/bundle/forkd-controller.js', import.meta.url));
const NOBODY = ['--reuid', '65534', '--regid', '65534', '--clear-groups'] as const;

let dataDir = '';

beforeEach(async ({ skip }) => {
  const { error, status } = spawnSync('setpriv', [...NOBODY, process.execPath, FORKD, '--version'], { cwd: '/' });
  if (error !== undefined || status !== 0) skip('another user cannot run what this checkout has built');
  dataDir = await mkdtemp('/tmp/fk-access-');
  await chmod(dataDir, 0o755);
});

afterEach(async () => {
  if (dataDir !== '') await rm(dataDir, { recursive: true, force: true });
});

/** Runs a program as a user without rights. */
function asNobody(program: string, ...args: string[]) {
  const env = { PATH: process.env['PATH'], FORKD_DATA_DIR: dataDir };
  return spawnSync('setpriv', [...NOBODY, process.execPath, program, ...args], { env, encoding: 'utf8', cwd: '/' });
}

test('a user who may not open the socket learns who may, and how to call the port', async () => {
  await mkdir(join(dataDir, 'run'), { mode: 0o700 });
  const socket = join(dataDir, 'run/controller.sock');
  const server = http.createServer();
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  const { status, stderr } = asNobody(FORKD, 'ls');
  server.close();
  expect(status).toBe(1);
  expect(stderr).toMatch(
    /^error: This user may not open unix:\S+\/controller\.sock \(EACCES\)\.\nhint: Only the owner .* FORKD_URL/,
  );
});

test('a data directory that the user may not write to is named, with what to choose instead', () => {
  const { status, stderr } = asNobody(FORKD, 'ls');
  expect(status).toBe(1);
  expect(stderr).toMatch(
    new RegExp(`error: The data directory ${dataDir} cannot be used: EACCES: .*\nhint: .*FORKD_DATA_DIR.*\n$`),
  );
});

test('a controller that may not write to its data directory ends with a sentence, and logs no bug', () => {
  const { status, stdout, stderr } = asNobody(CONTROLLER, 'serve', '--no-tcp');
  expect([status, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(
    new RegExp(`^forkd-controller: --data-dir '${dataDir}' cannot be used: EACCES: .*\n'forkd-controller --help'`),
  );
});
