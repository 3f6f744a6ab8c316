/** Proves on small guests that a full root is an error of the program that writes, and that the guest goes on. */
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
