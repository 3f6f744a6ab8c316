import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { Blob, SnapshotConfig, SnapshotDraft, Store } from '../src/index.ts';

/** A directory that is gone when the test is over. */
export async function scratch(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'forkd-store-test-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

export function configOf(tag: string, more: Partial<SnapshotConfig> = {}): SnapshotConfig {
  return {
    format: 1,
    tag,
    created_at_unix: 1_700_000_000,
    machine: {
      engine: 'qemu',
      engine_version: '7.2.22',
      machine: 'microvm',
      accelerator: 'tcg',
      cpu_model: 'max',
      mem_mib: 256,
      vcpus: 1,
    },
    image: { env: { PATH: '/bin' }, workdir: '/', user: 'root', entrypoint: [], cmd: [] },
    source: 'recipe python',
    python: true,
    refresh: null,
    safety: 'standard',
    parent_tag: null,
    parent_digest: null,
    keeps_parent: false,
    branched_from: null,
    stats: {},
    ...more,
  };
}

/** Puts small blobs of these texts in and returns the draft of a snapshot of them. */
export async function draftOf(
  store: Store,
  tag: string,
  memory: readonly string[],
  more: Partial<SnapshotConfig> = {},
  disk: readonly string[] = [],
): Promise<SnapshotDraft> {
  const put = (text: string): Promise<Blob> => store.putBytes(Buffer.from(text));
  return {
    config: configOf(tag, more),
    memory: await Promise.all(memory.map(put)),
    deviceState: await put(`device state of ${tag}`),
    rootDisk: await put('root'),
    disk: await Promise.all(disk.map(put)),
  };
}

export async function writeSnapshot(
  store: Store,
  tag: string,
  memory: readonly string[],
  more: Partial<SnapshotConfig> = {},
) {
  return store.writeSnapshot(await draftOf(store, tag, memory, more));
}
