import type { SnapshotInfoDetail } from '@forkd/api';

/** Bytes in the store that the snapshot adds to its parent. The API reports the sum of all layers of its chain. */
export function layerBytes(detail: SnapshotInfoDetail, parent: SnapshotInfoDetail | undefined): number {
  const all = bytesOf(detail);
  const own = all - (parent === undefined ? 0 : bytesOf(parent));
  // A compacted snapshot has one layer, which may be smaller than the several layers of its parent.
  return own >= 0 ? own : all;
}

function bytesOf({ memory_physical_bytes: memory, disk_physical_bytes: disk = 0 }: SnapshotInfoDetail): number {
  return memory + disk;
}
