// Proves of the command as users run it: copying into guests and out of them.
import { execFileSync } from 'node:child_process';
import { chmod, link, lstat, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { describe, expect, test } from 'vitest';
import { fake, forkd, here, ID, serveForkd } from './support/forkd.ts';

serveForkd();

describe('cp', () => {
  test('copies a tree in and out again, with modes, empty directories and odd names', async () => {
    const tree = join(here, 'tree');
    await mkdir(join(tree, 'sub', 'empty'), { recursive: true });
    await writeFile(join(tree, 'run.sh'), '#!/bin/sh\n', { mode: 0o755 });
    await writeFile(join(tree, 'sub', 'ä b:c'), Buffer.from([0, 255, 10]));
    const copiedIn = await forkd(['cp', 'tree', `${ID}:/srv/app`]);
    expect(copiedIn).toMatchObject({ code: 0, stderr: '2 files, 13 B\n' });
    expect((await stat(fake.guestPath('/srv/app/sub/empty'))).isDirectory()).toBe(true);
    const copiedOut = await forkd(['cp', `${ID}:/srv/app`, 'back']);
    expect(copiedOut.code).toBe(0);
    expect([...(await readFile(join(here, 'back', 'sub', 'ä b:c')))]).toEqual([0, 255, 10]);
    expect((await stat(join(here, 'back', 'run.sh'))).mode & 0o777).toBe(0o755);
    expect((await stat(join(here, 'back', 'sub', 'empty'))).isDirectory()).toBe(true);
    await forkd(['cp', `${ID}:/srv/app`, 'back']);
    expect((await stat(join(here, 'back', 'app', 'run.sh'))).mode & 0o777).toBe(0o755);
  });

  test('copies from stdin and to stdout', async () => {
    expect((await forkd(['cp', '-', `${ID}:/tmp/x`], { stdin: 'piped' })).code).toBe(0);
    expect((await forkd(['cp', `${ID}:/tmp/x`, '-'])).stdout.toString()).toBe('piped');
  });

  test('says which file is missing, here and there', async () => {
    const missing = await forkd(['cp', `${ID}:/nope`, 'x']);
    expect(missing).toMatchObject({ code: 1, stderr: expect.stringContaining('/nope') });
    const local = await forkd(['cp', 'nope', `${ID}:/x`]);
    expect(local).toMatchObject({ code: 1, stderr: expect.stringMatching(/^error: ENOENT.*nope/) });
  });

  test('copies no setuid, setgid or sticky bits, in either direction', async () => {
    answerDir('/srv', [{ name: 'tool', mode: '7755' }]);
    fake.overrides.set(`GET /v1/sandboxes/${ID}/files`, (_, response) => void response.end('#!/bin/sh\n'));
    expect((await forkd(['cp', `${ID}:/srv`, 'tools'])).code).toBe(0);
    expect((await stat(join(here, 'tools', 'tool'))).mode & 0o7777).toBe(0o755);
    await writeFile(join(here, 'own'), 'x');
    await chmod(join(here, 'own'), 0o4755);
    expect((await forkd(['cp', 'own', `${ID}:/own`])).code).toBe(0);
    expect((await stat(fake.guestPath('/own'))).mode & 0o7777).toBe(0o755);
  });

  test.each(['..', '.', '', '/etc/x', 'a/../../x', 'a\u0000b'])(
    'refuses a file that the guest names %j',
    async (name) => {
      answerDir('/srv', [{ name, mode: '0644' }]);
      fake.overrides.set(`GET /v1/sandboxes/${ID}/files`, (_, response) => void response.end('owned'));
      await rm(join(here, 'refused'), { recursive: true, force: true });
      const before = await readdir(here);
      const result = await forkd(['cp', `${ID}:/srv`, 'refused']);
      expect(result).toMatchObject({ code: 1, stderr: expect.stringContaining(JSON.stringify(name).slice(1, -1)) });
      expect(await readdir(join(here, 'refused'))).toEqual([]);
      expect(await readdir(here)).toEqual(expect.arrayContaining([...before, 'refused']));
    },
  );

  test('writes through no link that stands in the target, and makes no devices', async () => {
    await mkdir(join(here, 'elsewhere'));
    await mkdir(join(here, 'into'));
    await symlink(join(here, 'elsewhere'), join(here, 'into', 'dir'));
    await symlink(join(here, 'elsewhere', 'file'), join(here, 'into', 'file'));
    answerDir('/srv', [
      { name: 'device', mode: '0666', type: 'other' },
      { name: 'file', mode: '0644' },
      { name: 'dir', mode: '0755', type: 'dir' },
    ]);
    fake.overrides.set(`GET /v1/sandboxes/${ID}/files`, (_, response) => void response.end('x'));
    const result = await forkd(['cp', `${ID}:/srv/.`, 'into/']);
    expect(result).toMatchObject({ code: 0 });
    const again = await forkd(['cp', `${ID}:/srv`, 'linked']);
    expect(again.code).toBe(0);
    await rm(join(here, 'linked', 'dir'), { recursive: true });
    await symlink(join(here, 'elsewhere'), join(here, 'linked', 'dir'));
    await rm(join(here, 'linked', 'file'));
    await symlink(join(here, 'elsewhere', 'file'), join(here, 'linked', 'file'));
    await rename(join(here, 'linked'), join(here, 'srv'));
    const refused = await forkd(['cp', `${ID}:/srv`, '.']);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('symbolic link') });
    expect((await lstat(join(here, 'srv', 'file'))).isFile()).toBe(true);
    expect(await readdir(join(here, 'srv'))).not.toContain('device');
    expect(await readdir(join(here, 'elsewhere'))).toEqual([]);
  });

  test('goes on over what cannot be copied, in either direction, and the exit code tells of it', async () => {
    const tree = join(here, 'partly');
    await mkdir(join(tree, 'sub'), { recursive: true });
    await symlink('itself', join(tree, 'itself'));
    await symlink('nowhere', join(tree, 'sub', 'dangling'));
    await writeFile(join(tree, 'a'), 'a');
    await writeFile(join(tree, 'sub', 'z'), 'z');
    const copiedIn = await forkd(['cp', 'partly', `${ID}:/partly`]);
    expect(copiedIn).toMatchObject({ code: 1, stderr: expect.stringContaining('2 files, 2 B; 2 could not be copied') });
    expect(copiedIn.stderr).toMatch(/warning: ELOOP.*itself/);
    expect(copiedIn.stderr).toMatch(/warning: ENOENT.*dangling/);
    expect(await readdir(fake.guestPath('/partly'), { recursive: true })).toEqual(
      expect.arrayContaining(['a', 'sub', 'sub/z']),
    );
    await symlink('nowhere', fake.guestPath('/partly/b'));
    const copiedOut = await forkd(['--json', 'cp', `${ID}:/partly`, 'partly-out']);
    expect([copiedOut.code, JSON.parse(copiedOut.stdout.toString())]).toEqual([1, { files: 2, bytes: 2, failed: 1 }]);
    expect(copiedOut.stderr).toContain('/partly/b');
    expect((await readdir(join(here, 'partly-out'), { recursive: true })).toSorted()).toEqual(['a', 'sub', 'sub/z']);
  });

  test('follows links to files and directories, in either direction, and stops at a loop', async () => {
    const tree = join(here, 'links');
    await mkdir(join(tree, 'real'), { recursive: true });
    await writeFile(join(tree, 'real', 'file'), 'x');
    await symlink('real', join(tree, 'link'));
    await symlink('real/file', join(tree, 'file'));
    await symlink('..', join(tree, 'real', 'up'));
    const paths = ['file', 'link', 'link/file', 'real', 'real/file'];
    const copiedIn = await forkd(['cp', 'links', `${ID}:/links`]);
    expect(copiedIn).toMatchObject({ code: 1, stderr: expect.stringContaining('which contains it') });
    expect((await readdir(fake.guestPath('/links'), { recursive: true })).toSorted()).toEqual(paths);
    expect((await lstat(fake.guestPath('/links/link'))).isDirectory()).toBe(true);
    await rm(fake.guestPath('/links'), { recursive: true });
    await rename(tree, fake.guestPath('/links'));
    const copiedOut = await forkd(['cp', `${ID}:/links`, 'links-out']);
    expect(copiedOut).toMatchObject({ code: 1, stderr: expect.stringContaining('which contains it') });
    expect((await readdir(join(here, 'links-out'), { recursive: true })).toSorted()).toEqual(paths);
  });

  test('what is overwritten keeps its mode, its other names and the links to it', async () => {
    await writeFile(fake.guestPath('/new'), 'new', { mode: 0o755 });
    await writeFile(join(here, 'old'), 'much older content', { mode: 0o640 });
    await symlink('old', join(here, 'link to old'));
    expect((await forkd(['cp', `${ID}:/new`, 'link to old'])).code).toBe(0);
    expect(await readFile(join(here, 'old'), 'utf8')).toBe('new');
    expect((await lstat(join(here, 'old'))).mode & 0o777).toBe(0o640);
    expect((await lstat(join(here, 'link to old'))).isSymbolicLink()).toBe(true);
    await writeFile(join(here, 'old'), 'much older content');
    await link(join(here, 'old'), join(here, 'other name'));
    expect((await forkd(['cp', `${ID}:/new`, 'old'])).code).toBe(0);
    expect(await readFile(join(here, 'other name'), 'utf8')).toBe('new');
    expect((await lstat(join(here, 'old'))).mode & 0o777).toBe(0o640);
    await symlink('not yet', join(here, 'dangling'));
    expect((await forkd(['cp', `${ID}:/new`, 'dangling'])).code).toBe(0);
    expect(await readFile(join(here, 'not yet'), 'utf8')).toBe('new');
    expect((await readdir(here)).filter((name) => name.startsWith('.forkd-'))).toEqual([]);
  });

  test('a FIFO that the caller names is written into; one below a directory is not', async () => {
    await mkdir(fake.guestPath('/pipes'), { recursive: true });
    await writeFile(fake.guestPath('/pipes/fifo'), 'into it');
    await mkdir(join(here, 'pipes'));
    const fifo = join(here, 'pipes', 'fifo');
    execFileSync('mkfifo', [fifo]);
    const [copied, read] = await Promise.all([forkd(['cp', `${ID}:/pipes/fifo`, fifo]), readFile(fifo, 'utf8')]);
    expect([copied.code, read]).toEqual([0, 'into it']);
    const refused = await forkd(['cp', `${ID}:/pipes`, '.']);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('not a regular file') });
    expect((await lstat(fifo)).isFIFO()).toBe(true);
  });

  test('shows a name with terminal escapes, and does not obey them', async () => {
    answerDir('/srv', [{ name: 'a\u001b[2J\u009b', mode: '0644', type: 'other' }]);
    const result = await forkd(['cp', `${ID}:/srv`, 'shown']);
    expect(result.stderr).toContain(String.raw`/srv/a\x1b[2J\x9b is left out`);
  });
});

describe('files', () => {
  test('makes, renames and describes what is in a sandbox', async () => {
    expect(await forkd(['files', 'mkdir', `${ID}:/made/here`])).toMatchObject({ code: 0, stderr: '' });
    expect(await forkd(['files', 'mv', `${ID}:/made/here`, '/made/there'])).toMatchObject({ code: 0, stderr: '' });
    expect((await stat(fake.guestPath('/made/there'))).isDirectory()).toBe(true);
    await symlink('there', fake.guestPath('/made/link'));
    const linked = await forkd(['files', 'stat', `${ID}:/made/link`]);
    expect(linked.stdout.toString()).toMatch(/^type +symlink\n(.*\n)*target +there\n$/);
    const followed = await forkd(['files', 'stat', '-L', '--json', `${ID}:/made/link`]);
    expect(JSON.parse(followed.stdout.toString())).toMatchObject({ type: 'dir', mode: '0755' });
    const missing = await forkd(['files', 'stat', `${ID}:/none`]);
    expect(missing).toMatchObject({ code: 1, stderr: expect.stringContaining('/none') });
    expect(await forkd(['files', 'stat', '/here'])).toMatchObject({ code: 2 });
  });

  test('prints what happens at a path, until the path is gone or the watch fails', async () => {
    const happens = (...events: object[]) =>
      fake.overrides.set(`GET /v1/sandboxes/${ID}/files/watch`, (_, response, url) => {
        expect([...url.searchParams]).toEqual([
          ['path', '/srv'],
          ['recursive', 'true'],
        ]);
        response.end(events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join(''));
      });
    const moved = { type: 'rename', path: '/srv/a\u001b', to: '/srv/b\udcff' };
    happens({ type: 'ready' }, moved, { type: 'overflow' }, { type: 'remove', path: '/srv' });
    const shown = await forkd(['files', 'watch', '-r', `${ID}:/srv`]);
    expect([shown.code, shown.stdout.toString()]).toEqual([
      0,
      'ready\nrename   /srv/a\\x1b -> /srv/b\\udcff\noverflow\nremove   /srv\n',
    ]);
    const { stdout } = await forkd(['files', 'watch', '-r', '--json', `${ID}:/srv`]);
    expect(JSON.parse(stdout.toString().split('\n')[1] ?? '')).toEqual(moved);
    happens({ type: 'ready' }, { type: 'error', code: 'too_many_watches', error: 'It has over 4096 directories.' });
    const failed = await forkd(['files', 'watch', '-r', `${ID}:/srv`]);
    expect(failed).toMatchObject({ code: 1, stderr: expect.stringContaining('over 4096 directories') });
    happens({ type: 'ready' });
    const cut = await forkd(['files', 'watch', '-r', `${ID}:/srv`]);
    expect(cut).toMatchObject({ code: 1, stderr: expect.stringContaining('cut off') });
  });
});

/** The entries that the guest names in this directory. Every directory among them is empty. */
function answerDir(directory: string, entries: { name: string; mode: string; type?: string }[]): void {
  const list = entries.map((entry) => ({ type: 'file', size: 1, mtime_unix: 1, ...entry }));
  fake.overrides.set(`GET /v1/sandboxes/${ID}/dir`, (_, response, url) => {
    const isIt = posix.normalize(url.searchParams.get('path') ?? '').replace(/(.)\/$/, '$1') === directory;
    response.end(JSON.stringify(isIt ? list : []));
  });
}
