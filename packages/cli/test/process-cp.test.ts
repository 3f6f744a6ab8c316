// Proves of the command as users run it: copying into guests and out of them.
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { fake, forkd, here, ID } from './support/forkd.ts';

describe('cp', () => {
  it('copies a tree in and out again, with modes, empty directories and odd names', async () => {
    const tree = path.join(here, 'tree');
    await mkdir(path.join(tree, 'sub', 'empty'), { recursive: true });
    await writeFile(path.join(tree, 'run.sh'), '#!/bin/sh\n', { mode: 0o755 });
    await writeFile(path.join(tree, 'sub', 'ä b:c'), Buffer.from([0, 255, 10]));
    const copiedIn = await forkd(['cp', 'tree', `${ID}:/srv/app`]);
    expect(copiedIn).toMatchObject({ code: 0, stderr: '2 files, 13 B\n' });
    expect((await stat(fake.guestPath('/srv/app/sub/empty'))).isDirectory()).toBe(true);
    const copiedOut = await forkd(['cp', `${ID}:/srv/app`, 'back']);
    expect(copiedOut.code).toBe(0);
    expect([...(await readFile(path.join(here, 'back', 'sub', 'ä b:c')))]).toEqual([0, 255, 10]);
    expect((await stat(path.join(here, 'back', 'run.sh'))).mode & 0o777).toBe(0o755);
    expect((await stat(path.join(here, 'back', 'sub', 'empty'))).isDirectory()).toBe(true);
    await forkd(['cp', `${ID}:/srv/app`, 'back']);
    expect((await stat(path.join(here, 'back', 'app', 'run.sh'))).mode & 0o777).toBe(0o755);
  });

  it('copies from stdin and to stdout', async () => {
    expect((await forkd(['cp', '-', `${ID}:/tmp/x`], { stdin: 'piped' })).code).toBe(0);
    expect((await forkd(['cp', `${ID}:/tmp/x`, '-'])).stdout.toString()).toBe('piped');
  });

  it('says which file is missing, here and there', async () => {
    const missing = await forkd(['cp', `${ID}:/nope`, 'x']);
    expect(missing).toMatchObject({ code: 1, stderr: expect.stringContaining('/nope') });
    const local = await forkd(['cp', 'nope', `${ID}:/x`]);
    expect(local).toMatchObject({ code: 1, stderr: expect.stringMatching(/^error: ENOENT.*nope/) });
  });
});
