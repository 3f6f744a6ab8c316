/**
 * The disk fills up in the middle of a branch: the source goes on unharmed, the snapshot is failed with the reason, nothing
 * half-written stays, and when there is room again the same sandbox can be branched.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { forkOne, installedStorm, makeTemplate, TestController } from '@forkd/testing';

const run = promisify(execFile);

/** Room for the template and a little more. */
const DISK_MIB = 220;
/** What the branch has to capture at least: more than is left. */
const STORM_MIB = 32;
const LEFT_MIB = 8;

describe('a disk that is full', () => {
  let disk: string;
  let controller: TestController;

  beforeAll(async () => {
    disk = await mkdtemp('/tmp/fk-disk-');
    await run('mount', ['-t', 'tmpfs', '-o', `size=${DISK_MIB}m`, 'tmpfs', disk]);
    controller = await TestController.start({ dir: path.join(disk, 'data') });
    await makeTemplate(controller.client);
  });

  afterAll(async () => {
    await controller?.[Symbol.asyncDispose]();
    if (disk === undefined) return;
    await run('umount', [disk]);
    await rm(disk, { recursive: true });
  });

  it.each(['live', 'diff'] as const)('in a %s branch: the source runs on, the snapshot failed', async (mode) => {
    const { client } = controller;
    const id = await forkOne(client);
    const storm = await installedStorm(client, id, STORM_MIB);
    const filler = path.join(disk, 'filler');
    const { bavail, bsize } = await statfs(disk);
    await writeFile(filler, Buffer.alloc(bavail * bsize - LEFT_MIB * 2 ** 20));
    const branch = client.branch(id, { tag: mode, mode });
    await expect(branch).rejects.toMatchObject({ code: 'disk_full', status: 507 });
    expect(await client.getSnapshot(mode)).toMatchObject({ status: 'failed', error: expect.stringContaining('space') });
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
  });
});
