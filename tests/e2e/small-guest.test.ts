/**
 * Proves on small guests that a full root is an error of the program that writes, and that the guest goes on; and that a template
 * whose guest ends while it is built is answered with the reason and the last lines of the console.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { forkOne, shell } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { expect } from 'vitest';

test('a guest of 128 MiB whose root is full says so and goes on', async ({ client }) => {
  const tag = 'small';
  await client.createSnapshot({ tag, source: 'recipe:busybox', mem_mib: 128 });
  const id = await forkOne(client, tag);
  const fill = { args: ['sh', '-c', 'dd if=/dev/zero of=/fill bs=64k'], timeout_secs: 120 };
  const filled = await client.exec(id, fill);
  expect([filled.exit_code, filled.stderr]).toEqual([1, expect.stringContaining('No space left on device')]);
  const writing = client.writeFile(id, '/more', new Uint8Array(1024 * 1024));
  await expect(writing).rejects.toMatchObject({ code: 'no_space_in_guest' });
  // Programs have memory left: this one holds some MiB.
  expect(await shell(client, id, 'x=$(head -c 4000000 /dev/zero | tr "\\0" y); echo ${#x}; rm /fill')).toBe('4000000');
  await client.writeFile(id, '/more', new Uint8Array(1024 * 1024));
  await client.deleteSandbox(id);
  await client.deleteSnapshot(tag);
});

test('a template whose guest ends while it boots fails with what the console said', async ({ client, controller }) => {
  const rootfs = join(controller.dir, 'no-root.erofs');
  const superblock = Buffer.alloc(8192);
  superblock.writeUInt32LE(0xe0f5e1e2, 1024);
  await writeFile(rootfs, superblock);
  const error = {
    code: 'boot_failed',
    message: expect.stringMatching(/'no-root': .*its agent gave up: boot failed: mount \/dev\/vda as erofs/) as string,
    hint: expect.stringMatching(/Its console ended with:\n(.*\n)*.*Attempted to kill init/) as string,
  };
  await expect(client.createSnapshot({ tag: 'no-root', rootfs, mem_mib: 96 })).rejects.toMatchObject(error);
});

test('a template whose guest runs out of memory fails with advice to give it more', async ({ client }) => {
  // No page is free enough for the next allocation, so that the kernel gives up at once instead of thrashing first.
  const fill = 'cd /proc/sys/vm; echo 1 > panic_on_oom; echo 90000 > min_free_kbytes; head -c 5000000 /dev/zero | tail';
  const request = { tag: 'full', source: 'recipe:busybox', mem_mib: 96, warm_command: ['sh', '-c', fill] };
  const error = {
    code: 'warm_failed',
    message: expect.stringMatching(/ended by itself: the kernel of the guest panicked: Out of memory/) as string,
    hint: expect.stringMatching(/^Give the guest more memory \(--mem-mib\)\.\nIts console ended with:\n/) as string,
  };
  await expect(client.createSnapshot(request)).rejects.toMatchObject(error);
  expect((await client.listSnapshots()).map(({ tag }) => tag)).toEqual(['base']);
});
