// Proves that the blobs of snapshots are verified before a fork asks for them: the newest first, each once, all of them even
// if one is damaged, and not beyond the end of the controller.
import type { StoredSnapshot } from '@forkd/store';
import { expect, test } from 'vitest';
import { verifyAhead } from '../src/operations/verify-ahead.ts';
import { silent } from './support.ts';

function snapshot(createdAtUnix: number, root: string, state: string): StoredSnapshot {
  const parts = {
    config: { created_at_unix: createdAtUnix },
    rootDisk: { digest: root },
    deviceState: { digest: state },
  };
  return parts as unknown as StoredSnapshot;
}

const stored = async () => [snapshot(1, 'sha256:root', 'sha256:old'), snapshot(2, 'sha256:root', 'sha256:new')];

test('root images and device states are verified, newest first, even if one is damaged', async () => {
  const verified: string[] = [];
  const all = new Promise<void>((resolve) => {
    const verifyOnce = async (digest: string) => {
      verified.push(digest);
      if (verified.length === 3) resolve();
      if (digest === 'sha256:new') throw new Error('damaged');
    };
    verifyAhead({ catalog: { stored }, store: { verifyOnce }, log: silent });
  });
  await all;
  expect(verified).toEqual(['sha256:root', 'sha256:new', 'sha256:old']);
});

test('it ends with the controller', async () => {
  const verified: string[] = [];
  let begun = () => {};
  const hasBegun = new Promise<void>((resolve) => (begun = resolve));
  const verifyOnce = (digest: string, signal?: AbortSignal) =>
    new Promise<void>((_, reject) => {
      verified.push(digest);
      signal?.addEventListener('abort', () => reject(signal.reason as Error));
      begun();
    });
  const end = verifyAhead({ catalog: { stored }, store: { verifyOnce }, log: silent });
  await hasBegun;
  await end();
  expect(verified).toEqual(['sha256:root']);
});
