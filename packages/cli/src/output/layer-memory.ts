import type { LayerMemoryInfo } from '@forkd/api';
import { formatBytes } from './text.ts';

/** Formats the memory of layers as one line. */
export function layerLine(layers: LayerMemoryInfo): string {
  const parts = [
    `${formatBytes(layers.mapped_bytes)} mapped`,
    `${formatBytes(layers.unmapped_bytes)} of ${formatBytes(layers.budget_bytes)} unmapped`,
    ...(layers.pending_bytes > 0 ? [`${formatBytes(layers.pending_bytes)} not on disk`] : []),
    `${layers.let_go} let go`,
    `${layers.loaded_again} read again`,
  ];
  return parts.join(', ');
}
