import { join } from 'node:path';
import type { Pager } from '../pager/client.ts';
import type { BranchOptions } from '../pager/link.ts';
import type { BranchDone, BranchStats } from '../pager/wire.ts';
import type { FirecrackerApi } from './api.ts';
import type { Place } from './place.ts';

const FILES = { state: 'state', memory: 'memory' } as const;

interface Take {
  /** Only what was written since Firecracker began to count. */
  diff: boolean;
  /** Of the directory for its files, which is made. */
  name: string;
  place: Place;
  /** Whether a VM that runs is to run on. One that is paused stays so. */
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
 * Pauses a VM, lets Firecracker write its files, and lets the VM go on, also when that has failed. Firecracker cannot stop
 * writing: a caller who gives up waits until the VM runs again.
 */
export async function takeSnapshot(api: FirecrackerApi, take: Take, options: BranchOptions): Promise<BranchStats> {
  await take.place.makeFiles(take.name, [FILES.state, FILES.memory]);
  const { state } = await api.instance(options.signal);
  const runs = state === 'Running';
  const stats: BranchStats = { ...NO_STATS };
  const start = performance.now();
  let taken = false;
  try {
    if (runs) await api.pause();
    await api.createSnapshot({
      snapshot_type: take.diff ? 'Diff' : 'Full',
      snapshot_path: join(take.name, FILES.state),
      mem_file_path: join(take.name, FILES.memory),
    });
    taken = true;
  } finally {
    if (runs && (take.resume || !taken)) await api.resume();
  }
  stats.pause_us = since(start);
  options.signal?.throwIfAborted();
  options.onEvent?.({ stage: 'resumed', stats });
  return stats;
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
  stats.ready_us = stats.durable_us = stats.pause_us + since(start);
  const names = imported.stack.map(({ digest }) => digest);
  options.onEvent?.({ stage: 'ready', stack: names, device_state: deviceState, stats });
  return { stack: imported.stack, device_state: deviceState, stats, audit: null };
}

const PAGE_BYTES = 4096;

function since(start: number): number {
  return Math.round((performance.now() - start) * 1000);
}

/** Of what only live branches have. */
const NO_STATS: Readonly<BranchStats> = {
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
