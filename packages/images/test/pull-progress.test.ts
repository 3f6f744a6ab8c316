// Proves what is told of an image that is being pulled: from the files that skopeo has written so far, while it writes.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MIB } from '@forkd/api';
import { expect, test, vi } from 'vitest';
import { watchPull } from '../src/pull-progress.ts';
import { scratchDir } from './support.ts';

test('layers and bytes are counted while they come, out of all if these are known', async () => {
  const layout = join(await scratchDir(), 'layout');
  const known: string[] = [];
  const unknown: string[] = [];
  const stops = [
    watchPull(layout, [MIB, 2 * MIB], (line) => known.push(line)),
    watchPull(layout, null, (line) => unknown.push(line)),
  ];
  await mkdir(join(layout, 'blobs/sha256'), { recursive: true });
  await writeFile(join(layout, 'oci-put-blob1'), Buffer.alloc(MIB / 2));
  await writeFile(join(layout, 'blobs/sha256/a'), Buffer.alloc(MIB));
  await vi.waitFor(() => expect(known).toEqual(['root: pulled 1 of 2 layers, 1.5 MiB of 3.0 MiB']), 5000);
  // The config is a blob, too.
  for (const blob of ['b', 'config']) await writeFile(join(layout, 'blobs/sha256', blob), Buffer.alloc(2 * MIB));
  for (const stop of stops) await stop();
  expect(known.at(-1)).toBe('root: pulled 2 of 2 layers, 3.0 MiB of 3.0 MiB');
  expect(unknown[0]).toBe('root: pulled 1.5 MiB');
});
