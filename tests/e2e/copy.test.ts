/** Proves `forkd cp` on a real guest: names keep their bytes, kernel files are whole, and devices stay devices. */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { forkOne, REPO, shell } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { expect, onTestFinished } from 'vitest';

const MAIN = join(REPO, 'packages/cli/bundle/forkd.js');

test('copies names that are not UTF-8, kernel files, and nothing onto a device', async ({ client, controller }) => {
  const env = { ...process.env, FORKD_URL: `unix:${controller.socket}`, NO_COLOR: '1' };
  const forkd = (...args: string[]) => promisify(execFile)(process.execPath, [MAIN, ...args], { env });
  const dir = await mkdtemp(join(tmpdir(), 'forkd-copy-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const id = await forkOne(client);
  await shell(client, id, `mkdir -p /srv/a && printf content > "/srv/a/$(printf 'caf\\351')"`);
  await forkd('cp', `${id}:/srv/a`, join(dir, 'a'));
  expect(await readdir(join(dir, 'a'), 'buffer')).toEqual([Buffer.from('caf\u00e9', 'latin1')]);
  await forkd('cp', join(dir, 'a'), `${id}:/srv/b`);
  expect(await shell(client, id, `cat "/srv/b/$(printf 'caf\\351')"`)).toBe('content');

  const sysfs = '/sys/kernel/mm/transparent_hugepage/enabled';
  for (const path of [sysfs, '/proc/version']) {
    await forkd('cp', `${id}:${path}`, join(dir, 'kernel'));
    expect((await readFile(join(dir, 'kernel'), 'utf8')).trim()).toBe(await shell(client, id, `cat ${path}`));
  }

  await expect(forkd('cp', join(dir, 'kernel'), `${id}:/dev/null`)).rejects.toMatchObject({ code: 1 });
  expect(await shell(client, id, 'stat -c %F /dev/null')).toBe('character special file');
  await client.deleteSandbox(id);
});
