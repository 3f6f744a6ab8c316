/**
 * The disk fills up in the middle of a branch: the source goes on unharmed, the snapshot is failed with the reason, nothing
 * half-written stays, and when there is room again the same sandbox can be branched.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { forkOne, installedStorm } from '@forkd/testing';
import { test as base } from '@forkd/testing/vitest';
import { describe, expect } from 'vitest';

const run = promisify(execFile);

/** Room for the template and a little more. */
const DISK_MIB = 220;
/** The branch captures at least this much, which is more than is left. */
const STORM_MIB = 32;
const LEFT_MIB = 8;

const test = base
  .extend('disk', { scope: 'file' }, async ({}, { onCleanup }) => {
    const dir = await mkdtemp('/tmp/fk-disk-');
    await run('mount', ['-t', 'tmpfs', '-o', `size=${DISK_MIB}m`, 'tmpfs', dir]);
    onCleanup(async () => {
      await run('umount', [dir]);
      await rm(dir, { recursive: true });
    });
    return dir;
  })
  .extend('controllerOptions', { scope: 'file' }, ({ disk }) => ({ dir: join(disk, 'data') }));

describe('a full disk', () => {
  test.for(['live', 'diff'] as const)(
    'fails the snapshot of a %s branch, and its source runs on',
    async (mode, { client, controller, disk }) => {
      const id = await forkOne(client);
      const storm = await installedStorm(client, id, STORM_MIB);
      const filler = join(disk, 'filler');
      const { bavail, bsize } = await statfs(disk);
      await writeFile(filler, Buffer.alloc(bavail * bsize - LEFT_MIB * 2 ** 20));
      const branch = client.branch(id, { tag: mode, mode });
      await expect(branch).rejects.toMatchObject({ code: 'disk_full', status: 507 });
      expect(await client.getSnapshot(mode)).toMatchObject({
        status: 'failed',
        error: expect.stringContaining('space'),
      });
      await expect(client.createSandboxes({ snapshot_tag: mode })).rejects.toMatchObject({ status: 409 });
      expect(await controller.ingested()).toEqual([]);
      const before = await storm.next();
      expect(before.errors).toBe(0);
      expect((await storm.next()).writes).toBeGreaterThan(before.writes);
      await rm(filler);
      await client.deleteSnapshot(mode);
      await client.branch(id, { tag: mode, mode });
      const child = await forkOne(client, mode);
      await client.deleteSandbox(child);
      await client.deleteSandbox(id);
      await client.deleteSnapshot(mode);
    },
  );
});
