import { readFile } from 'node:fs/promises';
import { type Guest, Lab, type Point, sh } from '@forkd/testing';
import { type ChainEntry, type ChainRow, summarizeChain } from './chain-summary.ts';
import { hostFacts, type Report, type Run } from './run.ts';
import { rotated, round, timed } from './statistics.ts';

export interface ChainSetting {
  depths: readonly number[];
  /** Forks from each depth. */
  iterations: number;
}

export type ChainReport = Report<ChainRow, ChainEntry>;

/** Files that a link writes, and their size: a few MiB in many places, like a command that installs or builds something. */
const FILES = 48;
const FILE_KIB = 64;

const METHOD = [
  `A chain of snapshots: each is a live branch of a child of the last, in which ${FILES} files of ${FILE_KIB} KiB were written; depth 0 is the template.`,
  'running: from asking for a child of a snapshot until its VM runs. The depths by turns, in an order that rotates, all in one run.',
  'first: the first fork of each depth, one each. A snapshot that was forked twice gets a merged view of its layers in the background; later forks map that.',
  'extents: runs of pages that the layers consist of, all layers together. mappings: what the memory of a child is made of, at its first fork and at the median of all.',
  'Percentiles are nearest-rank; the 99th of fewer than a hundred is the largest.',
];

export async function benchChain({ depths, iterations }: ChainSetting, run: Run): Promise<ChainReport> {
  await using lab = await Lab.start({ signal: run.signal });
  const host = hostFacts(lab.engine);
  const points = await makeChain(lab, Math.max(...depths), run);
  const extents = await extentsOf(lab, points);
  const rows: ChainRow[] = [];
  for (let iteration = 0; iteration < iterations; iteration += 1) {
    for (const depth of rotated(depths, iteration)) {
      run.signal.throwIfAborted();
      const point = points[depth];
      if (!point) throw new RangeError(`there is no depth ${depth}`);
      const { ms, value: vm } = await timed(() => lab.restore(point));
      const mappings = await mappingsOf(vm.record.pid);
      await lab.kill(vm);
      const layers = point.stack.length;
      rows.push({ depth, iteration, running_ms: round(ms), layers, extents: extents[depth] ?? 0, mappings });
    }
    run.progress(`chain: ${iteration + 1} of ${iterations} forks from each depth`);
  }
  return { host, method: METHOD, rows, summary: summarizeChain(rows) };
}

/** A point for each depth, the template's first. */
async function makeChain(lab: Lab, depth: number, run: Run): Promise<Point[]> {
  const points = [await lab.template()];
  for (let link = 1; link <= depth; link += 1) {
    run.signal.throwIfAborted();
    run.progress(`chain: link ${link} of ${depth}`);
    const parent = points[link - 1];
    if (!parent) throw new RangeError('a link has a parent');
    const guest = await lab.fork(parent);
    await write(guest, link);
    points.push(lab.point(guest, await lab.branch(guest)));
    await lab.end(guest);
  }
  return points;
}

async function write(guest: Guest, link: number): Promise<void> {
  const file = `/root/link-${link}`;
  await sh(
    guest.agent,
    `mkdir ${file}; for n in $(seq ${FILES}); do dd if=/dev/urandom of=${file}/$n bs=${FILE_KIB}k count=1 2>/dev/null; done`,
  );
}

/** Number of layer mappings that make up the memory of a VM. */
async function mappingsOf(pid: number): Promise<number> {
  const maps = await readFile(`/proc/${pid}/maps`, 'utf8');
  return maps.split('\n').filter((line) => line.includes('/memfd:forkd-layer')).length;
}

/** Number of extents of all layers of each point. */
async function extentsOf(lab: Lab, points: readonly Point[]): Promise<number[]> {
  const { layers } = await lab.pager.inventory();
  const byDigest = new Map(layers.map((layer) => [layer.digest ?? layer.layer, layer.extents]));
  return points.map((point) => point.stack.reduce((sum, digest) => sum + (byDigest.get(digest) ?? 0), 0));
}
