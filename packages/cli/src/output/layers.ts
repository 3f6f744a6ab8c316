import type { SnapshotInfoDetail } from '@forkd/api';

/** Bytes on disk that the snapshot adds to its parent. The API reports the sum of all layers of its chain. */
export function layerBytes(detail: SnapshotInfoDetail, parent: SnapshotInfoDetail | undefined): number {
  const own = detail.memory_physical_bytes - (parent?.memory_physical_bytes ?? 0);
  // A compacted snapshot has one layer, which may be smaller than the several layers of its parent.
  return own >= 0 ? own : detail.memory_physical_bytes;
}
