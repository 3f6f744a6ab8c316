// Proves that a data directory has one controller at a time: of many that start at once one gets it, a killed one's is free at
// the next instant though what it started lives on, and a user who may not write there can neither take nor hold the lock.
import { type ChildProcess, execFile, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { locateBinaries } from '../src/binaries.ts';
import { lockFile } from '../src/process/file-lock.ts';
import { lockDataDir } from '../src/process/lock.ts';
import { scratch } from './support.ts';

const run = promisify(execFile);
const launcher = locateBinaries().jail;
const NOBODY = 65534;

type Said = { held: true; survivor: number } | { held: false; name: string; message: string };

interface Holder {
  child: ChildProcess;
  said: Said;
}

async function startHolder(root: string): Promise<Holder> {
  const child = fork(new URL('lock-holder.mjs', import.meta.url), [launcher, root]);
  const [said] = (await once(child, 'message')) as [Said];
  if (said.held) {
    onTestFinished(() => {
      child.kill('SIGKILL');
      process.kill(said.survivor, 'SIGKILL');
    });
  }
  return { child, said };
}

test('of many controllers that start at once exactly one gets the directory, and the others name it', async () => {
  const root = await scratch();
  const holders = await Promise.all(Array.from({ length: 6 }, () => startHolder(root)));
  const winners = holders.filter(({ said }) => said.held);
  expect(winners.length).toBe(1);
  for (const { said } of holders.filter((one) => !one.said.held)) {
    expect(said).toMatchObject({ name: 'LockedError' });
    expect(said).toMatchObject({ message: expect.stringContaining(`pid ${winners[0]?.child.pid}`) });
  }
}, 60_000);

test('the lock of a killed controller is free at once, though what it started lives on', async () => {
  const root = await scratch();
  const path = join(root, 'controller.lock');
  for (let round = 0; round < 3; round += 1) {
    const { child, said } = await startHolder(root);
    expect(said.held).toBe(true);
    expect(await lockFile(launcher, path)).toBeNull();
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    const lock = await lockFile(launcher, path);
    expect(lock).not.toBeNull();
    await lock?.close();
  }
}, 60_000);

test('a controller that ends in order leaves the directory to the next', async () => {
  const root = await scratch();
  for (let round = 0; round < 3; round += 1) {
    const release = await lockDataDir(launcher, { root, run: root }, '/s');
    expect(await lockFile(launcher, join(root, 'controller.lock'))).toBeNull();
    await release();
  }
});

test.skipIf(process.getuid?.() !== 0)('a user who may not write there cannot take or hold the lock', async () => {
  const root = await scratch();
  // Even where the directory itself is open to everybody's eyes.
  await chmod(root, 0o755);
  const path = join(root, 'controller.lock');
  const as = { uid: NOBODY, gid: NOBODY };
  const take = () => run('flock', ['--nonblock', path, 'true'], as);
  await expect(take()).rejects.toThrow(/Permission denied|cannot open/);
  const release = await lockDataDir(launcher, { root, run: root }, '/s');
  await expect(take()).rejects.toThrow(/Permission denied|cannot open/);
  await release();
  await expect(take()).rejects.toThrow(/Permission denied|cannot open/);
  await squatName(root);
  const again = await lockDataDir(launcher, { root, run: root }, '/s');
  await again();
});

test('a link in place of the lock is not followed', async () => {
  const root = await scratch();
  await writeFile(join(root, 'elsewhere'), 'kept');
  await run('ln', ['-s', join(root, 'elsewhere'), join(root, 'controller.lock')]);
  await expect(lockFile(launcher, join(root, 'controller.lock'))).rejects.toMatchObject({ code: 'ELOOP' });
});

/** Every user may bind any abstract name: as such a name the lock could be held by anybody. */
async function squatName(root: string): Promise<void> {
  const program = `const name = '\\0forkd-controller-' +
      require('node:crypto').createHash('sha256').update(process.argv[1]).digest('hex').slice(0, 32);
    require('node:net').createServer().listen(name, () => console.log('held'));`;
  const child = spawn(process.execPath, ['-e', program, root], { uid: NOBODY, gid: NOBODY });
  onTestFinished(() => void child.kill('SIGKILL'));
  await once(child.stdout, 'data');
}
