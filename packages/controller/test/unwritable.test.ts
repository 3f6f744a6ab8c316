// Proves that a sandbox whose directory can be neither written nor removed ends neither the controller nor its next start.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Expiry } from '../src/operations/expire.ts';
import { recover } from '../src/operations/recover.ts';
import { Lab, scratch } from './support.ts';

const run = promisify(execFile);

/** Mounts a read-only file system on `dir`, until the test is over. */
async function seal(dir: string): Promise<void> {
  await run('mount', ['-t', 'tmpfs', '-o', 'ro', 'forkd-controller-test', dir]);
  onTestFinished(async () => {
    await run('umount', [dir]);
  });
}

test('a sandbox whose VMM ends by itself is gone, though its directory cannot be removed', async () => {
  const lab = await Lab.open(await scratch());
  const { sandbox, exit } = await lab.addSandbox('sb-a');
  await lab.registry.note(sandbox, { name: 'web' });
  await seal(sandbox.dir);
  exit.resolve({ code: 1, signal: null, why: null, log: '' });
  await vi.waitFor(() => expect(lab.registry.size).toBe(0));
  lab.registry.assertNameFree('web');
  expect(lab.registry.ended.list().map(({ id }) => id)).toEqual(['sb-a']);
  await lab.close();
});

test('a directory that cannot be removed does not keep a controller from starting', async () => {
  const lab = await Lab.open(await scratch());
  const { sandbox } = await lab.addSandbox('sb-a');
  await seal(sandbox.dir);
  expect(await recover(lab.host, 'qemu')).toMatchObject({ adopted: 0, removed: 0 });
  await lab.close();
});

test('the time to live of other sandboxes is kept, though the record of one cannot be written', async () => {
  const lab = await Lab.open(await scratch());
  const { sandbox: sealed } = await lab.addSandbox('sb-a');
  const { sandbox: other } = await lab.addSandbox('sb-b');
  await lab.registry.note(sealed, { expires_at_unix: 1, on_expire: 'pause' });
  await seal(sealed.dir);
  const expiry = new Expiry(lab.host);
  await vi.waitFor(() => expect(sealed.record.expires_at_unix).toBeGreaterThan(1));
  await lab.registry.note(other, { expires_at_unix: 1, on_expire: 'kill' });
  lab.events.emit('sandbox.updated', { sandbox: other.id, snapshot: 'base' });
  await vi.waitFor(() => expect(lab.registry.list()).toEqual([sealed]));
  expect(() => lab.registry.find('sb-b')).toThrow('Sandbox sb-b has reached its time to live.');
  expiry.close();
  await lab.close();
});
