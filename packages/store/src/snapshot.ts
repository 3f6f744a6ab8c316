import type { Blob, Digest } from './digest.ts';

/** The machine that a snapshot was taken of. The store carries it; an engine says what it means. */
export interface MachineRecord {
  engine: string;
  engine_version: string;
  machine: string;
  accelerator: string;
  cpu_model: string;
  mem_mib: number;
  vcpus: number;
}

/** What the image said of how its commands run. */
export interface ImageRecord {
  env: Record<string, string>;
  workdir: string;
  user: string;
  entrypoint: string[];
  cmd: string[];
}

/** What a snapshot is, apart from its blobs: the config blob of its manifest. */
export interface SnapshotConfig {
  format: 1;
  tag: string;
  created_at_unix: number;
  machine: MachineRecord;
  image: ImageRecord;
  /** What the image was made from, in words. */
  source: string;
  /** Whether a Python interpreter was running in the guest, warmed. */
  python: boolean;
  /** The snapshot that the sandbox was started from, and the digest of its manifest: a tag can be given again. */
  parent_tag: string | null;
  parent_digest: Digest | null;
  /** The sandbox that it was branched from. `null` for a template. */
  branched_from: string | null;
  /** What it cost, in numbers whose names carry their unit. */
  stats: Record<string, number>;
}

/** A snapshot that is about to be written: all its blobs are in the store already. */
export interface SnapshotDraft {
  config: SnapshotConfig;
  /** Bottom layer first. */
  memory: readonly Blob[];
  deviceState: Blob;
  rootDisk: Blob;
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
  return [snapshot.manifest, snapshot.configBlob, ...snapshot.memory, snapshot.deviceState, snapshot.rootDisk];
}
