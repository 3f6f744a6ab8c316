import type { SnapshotInfoDetail } from '@forkd/api';

/** What a snapshot has on disk that its parent has not: the API counts all the layers that it is made of. */
export function layerBytes(detail: SnapshotInfoDetail, parent: SnapshotInfoDetail | undefined): number {
  const own = detail.memory_physical_bytes - (parent?.memory_physical_bytes ?? 0);
  // A compacted one has one layer, which may be smaller than its parent's several.
  return own >= 0 ? own : detail.memory_physical_bytes;
}
