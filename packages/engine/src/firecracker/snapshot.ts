import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Pager } from '../pager/client.ts';
import type { BranchOptions } from '../pager/link.ts';
import type { BranchDone, BranchStats } from '../pager/wire.ts';
import type { FirecrackerApi } from './api.ts';
import type { VmRoot } from './vm-root.ts';

/** Files of a snapshot, and of one that is only measured. */
const FILES = { state: 'state', memory: 'memory' } as const;
const MEASURED = { state: 'measured-state', memory: 'measured-memory' } as const;

interface Take {
  /** Only what was written since Firecracker began to count. */
  diff: boolean;
  /** True if a whole snapshot also measures, first, what such a difference would have cost. */
  measureDiff: boolean;
  /** Name of the directory for its files, which is created. */
  name: string;
  vmRoot: VmRoot;
  /** True if a running VM must keep running. A paused VM stays paused. */
  resume: boolean;
}

/** Snapshot files, and what they are to become. */
interface Captured {
  dir: string;
  diff: boolean;
  /** The layers that memory is written down as a difference to; none for a whole of its own. */
  below: readonly string[];
  memBytes: number;
}

/**
 * Pauses a VM, makes Firecracker write its files, and resumes the VM, even after a failure. Firecracker cannot stop writing, so
 * a caller that cancels waits until the VM runs again.
 */
export async function takeSnapshot(api: FirecrackerApi, take: Take, options: BranchOptions): Promise<BranchStats> {
  await take.vmRoot.makeFiles(take.name, [...Object.values(FILES), ...Object.values(MEASURED)]);
  const { state } = await api.instance(options.signal);
  const runs = state === 'Running';
  const stats: BranchStats = { ...NO_STATS };
  const start = performance.now();
  let taken = false;
  try {
    if (runs) await api.pause();
    if (take.measureDiff) await measureDiff(api, take, stats);
    const writeStart = performance.now();
    await write(api, take, take.diff ? 'Diff' : 'Full', FILES);
    if (take.diff) stats.diff_us = since(writeStart);
    taken = true;
  } finally {
    if (runs && (take.resume || !taken)) await api.resume();
  }
  stats.pause_us = since(start);
  options.signal?.throwIfAborted();
  options.onEvent?.({ stage: 'resumed', disk_epoch: null, stats });
  return stats;
}

async function measureDiff(api: FirecrackerApi, take: Take, stats: BranchStats): Promise<void> {
  const start = performance.now();
  await write(api, take, 'Diff', MEASURED);
  stats.diff_us = since(start);
  const { blocks } = await stat(join(take.vmRoot.root, take.name, MEASURED.memory));
  stats.diff_pages = Math.round((blocks * BLOCK_BYTES) / PAGE_BYTES);
}

function write(api: FirecrackerApi, { name }: Take, type: 'Diff' | 'Full', to: Record<'state' | 'memory', string>) {
  const files = { snapshot_path: join(name, to.state), mem_file_path: join(name, to.memory) };
  return api.createSnapshot({ snapshot_type: type, ...files });
}

/** Makes layers and a device state of snapshot files, and resolves when they are durable. */
export async function branchOf(
  captured: Captured,
  stats: BranchStats,
  pager: Pager,
  options: BranchOptions,
): Promise<BranchDone> {
  const { dir, diff, below, memBytes } = captured;
  const start = performance.now();
  const [imported, deviceState] = await Promise.all([
    pager.importMemory({ mem_bytes: memBytes, stack: [...below], path: join(dir, FILES.memory), tracked: diff }),
    pager.importFile(join(dir, FILES.state)),
  ]);
  stats.captured_pages = imported.captured_pages;
  stats.captured_bytes = imported.captured_pages * PAGE_BYTES;
  if (diff) stats.diff_pages = imported.captured_pages;
  stats.ready_us = stats.durable_us = stats.pause_us + since(start);
  const names = imported.stack.map(({ digest }) => digest);
  options.onEvent?.({ stage: 'ready', stack: names, device_state: deviceState, stats, audit: null });
  return { stack: imported.stack, device_state: deviceState, stats, audit: null };
}

const PAGE_BYTES = 4096;
/** The unit of `blocks` of a file. */
const BLOCK_BYTES = 512;

function since(start: number): number {
  return Math.round((performance.now() - start) * 1000);
}

/** Figures that only live branches have. */
const NO_STATS: Readonly<BranchStats> = {
  window: 'monitor',
  pause_us: 0,
  device_state_us: 0,
  arm_us: 0,
  scan_us: 0,
  settle_us: 0,
  settle_rounds: 0,
  touched_pages: 0,
  private_pages: 0,
  captured_pages: 0,
  captured_bytes: 0,
  diff_us: 0,
  diff_pages: 0,
  capture_us: 0,
  pages_by_copy: 0,
  pages_by_fault: 0,
  faults: 0,
  fault_wait_ns_p50: 0,
  fault_wait_ns_p99: 0,
  fault_wait_ns_max: 0,
  ready_us: 0,
  durable_us: 0,
};
