import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { MIB } from '@forkd/api';

/** How often the layout is looked at. */
const LOOK_MS = 1000;
/** How often bytes are reported while no layer becomes complete. */
const REPORT_MS = 5000;

/**
 * Reports how much of an image is in the layout that it is copied to, because skopeo does not say: how many layers are
 * complete, and how many bytes there are, each out of all if `layerSizes` is known. Returns how to stop; that reports once more.
 */
export function watchPull(
  layout: string,
  layerSizes: readonly number[] | null,
  onProgress: (line: string) => void,
): () => Promise<void> {
  let last = { layers: 0, bytes: 0 };
  let reportedAtMs = performance.now();
  let looking = Promise.resolve();
  const look = async (isEnd: boolean): Promise<void> => {
    const now = await contentOf(layout);
    const isLate = now.bytes !== last.bytes && performance.now() - reportedAtMs >= REPORT_MS;
    if (now.layers === last.layers && !isLate && !isEnd) return;
    last = now;
    reportedAtMs = performance.now();
    onProgress(`root: pulled ${amountOf(now, layerSizes)}`);
  };
  const timer = setInterval(() => {
    looking = looking.then(() => look(false)).catch(() => undefined);
  }, LOOK_MS);
  return async () => {
    clearInterval(timer);
    await looking;
    await look(true);
  };
}

interface Content {
  /** Blobs that are complete. The config is the last of them. */
  layers: number;
  bytes: number;
}

/** A layout has complete blobs in a directory of their own, and blobs that are being written beside `index.json`. */
async function contentOf(layout: string): Promise<Content> {
  const [complete, partial] = await Promise.all([sizesIn(join(layout, 'blobs/sha256')), sizesIn(layout)]);
  const bytes = [...complete, ...partial].reduce((sum, size) => sum + size, 0);
  return { layers: complete.length, bytes };
}

/** The sizes of the files in a directory, of which some may come and go meanwhile. */
async function sizesIn(directory: string): Promise<number[]> {
  const names = await readdir(directory).catch(() => []);
  const stats = await Promise.all(names.map((name) => stat(join(directory, name)).catch(() => null)));
  return stats.flatMap((found) => (found?.isFile() === true ? [found.size] : []));
}

function amountOf({ layers, bytes }: Content, layerSizes: readonly number[] | null): string {
  if (layerSizes === null) return mibOf(bytes);
  const count = layerSizes.length;
  const total = layerSizes.reduce((sum, size) => sum + size, 0);
  return `${Math.min(layers, count)} of ${count} layers, ${mibOf(Math.min(bytes, total))} of ${mibOf(total)}`;
}

function mibOf(bytes: number): string {
  return `${(bytes / MIB).toFixed(1)} MiB`;
}
