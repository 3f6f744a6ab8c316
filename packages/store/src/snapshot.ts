import type { Image, Machine, Refresh, Safety } from '@forkd/api';
import type { Blob, Digest } from './digest.ts';

/** The machine that a snapshot was taken of, as any version of forkd with any engine wrote it. */
export interface MachineRecord extends Omit<Machine, 'engine' | 'accelerator'> {
  engine: string;
  accelerator: string;
}

/** The config blob of a manifest: everything about a snapshot except its blobs. */
export interface SnapshotConfig {
  format: 1;
  tag: string;
  created_at_unix: number;
  machine: MachineRecord;
  image: Image;
  /** Source of the image, in words. */
  source: string;
  /** Whether a Python interpreter was running in the guest, warmed. */
  python: boolean;
  /** `null` for a snapshot of an earlier version, whose guest was never asked. */
  refresh: Refresh | null;
  /** `strict`: programs stand still in it, until a child has its identity. */
  safety: Safety;
  /** The snapshot that the sandbox was started from, and the digest of its manifest: a tag can be given again. */
  parent_tag: string | null;
  parent_digest: Digest | null;
  /** True if the parent cannot be removed without it. Layers are shared either way, and it runs without its parent. */
  keeps_parent: boolean;
  /** The sandbox that it was branched from. `null` for a template. */
  branched_from: string | null;
  /** The request that the template was built with, as its caller sent it. Absent if it is not known. */
  build?: unknown;
  /** The network policy of children, and what their guests know of the network. Absent without a network device. */
  network?: unknown;
  /** Cost of the snapshot. Each name carries its unit. */
  stats: Record<string, number>;
}

/** A snapshot that is about to be written: all its blobs are in the store already. */
export interface SnapshotDraft {
  config: SnapshotConfig;
  /** Bottom layer first. */
  memory: readonly Blob[];
  deviceState: Blob;
  rootDisk: Blob;
  /** Layers of the disk, bottom first. Empty if and only if the machine has none. */
  disk: readonly Blob[];
}

/** A snapshot as the store holds it. */
export interface StoredSnapshot extends SnapshotDraft {
  tag: string;
  /** The manifest itself: its digest names the snapshot whatever tag it has. */
  manifest: Blob;
  configBlob: Blob;
}

/** The blobs that a snapshot refers to, its manifest and config among them. */
export function blobsOf(snapshot: StoredSnapshot): Blob[] {
  const { manifest, configBlob, memory, deviceState, rootDisk, disk } = snapshot;
  return [manifest, configBlob, ...memory, deviceState, rootDisk, ...disk];
}
