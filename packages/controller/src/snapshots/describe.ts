import type { SnapshotInfo, SnapshotInfoDetail } from '@forkd/api';
import type { BranchMode, BranchStats } from '@forkd/engine';
import type { Listed, StoredSnapshot } from '@forkd/store';
import { ancestorsOf } from '@forkd/store';

import type { Draft } from './draft.ts';

const mib = 1024 * 1024;

/** The fields of `SnapshotInfo` that come from a snapshot's numbers, by the same name. */
const statFields = [
  'pause_ms',
  'diff_ms',
  'diff_physical_bytes',
  'diff_logical_bytes',
  'pause_us',
  'device_state_us',
  'arm_us',
  'touched_pages',
  'captured_pages',
  'captured_bytes',
  'capture_ms',
  'faults',
  'fault_wait_us_p50',
  'fault_wait_us_p99',
  'fault_wait_us_max',
  'ready_ms',
  'durable_ms',
] as const satisfies readonly (keyof SnapshotInfo)[];

/** What the pager measured, in the names and units of the wire. Stages that were not reached are left out. */
export function statsOf(stats: BranchStats, mode: BranchMode, memMib: number): Record<string, number> {
  const captureMs = stats.capture_us / 1000;
  const reached = stats.ready_us > 0;
  return {
    pause_us: stats.pause_us,
    pause_ms: stats.pause_us / 1000,
    device_state_us: stats.device_state_us,
    arm_us: stats.arm_us,
    touched_pages: stats.touched_pages,
    ...(reached && {
      captured_pages: stats.captured_pages,
      captured_bytes: stats.captured_bytes,
      capture_ms: captureMs,
      faults: stats.faults,
      fault_wait_us_p50: stats.fault_wait_ns_p50 / 1000,
      fault_wait_us_p99: stats.fault_wait_ns_p99 / 1000,
      fault_wait_us_max: stats.fault_wait_ns_max / 1000,
      ready_ms: stats.ready_us / 1000,
    }),
    ...(reached &&
      mode !== 'full' && {
        diff_ms: captureMs,
        diff_physical_bytes: stats.captured_bytes,
        diff_logical_bytes: memMib * mib,
      }),
    ...(stats.durable_us > 0 && { durable_ms: stats.durable_us / 1000 }),
  };
}

export function infoOfDraft(draft: Draft, dir: string): SnapshotInfo {
  if (draft.stored !== null) return infoOfStored(draft.stored, dir);
  const { facts, error } = draft;
  return {
    tag: draft.tag,
    dir,
    created_at_unix: facts.createdAtUnix,
    status: draft.status,
    bootable: draft.state === 'ready',
    durable: false,
    source: facts.source,
    ...(facts.branchedFrom !== null && { branched_from: facts.branchedFrom }),
    ...(facts.parent !== null && { parent_tag: facts.parent.tag }),
    ...(facts.machine !== null && { mem_mib: facts.machine.mem_mib, accelerator: facts.machine.accelerator }),
    ...(error !== null && { error: error.message }),
    ...pickStats(draft.stats),
  };
}

export function infoOfStored({ tag, config }: StoredSnapshot, dir: string): SnapshotInfo {
  return {
    tag,
    dir,
    created_at_unix: config.created_at_unix,
    status: 'ready',
    bootable: true,
    durable: true,
    source: config.source,
    mem_mib: config.machine.mem_mib,
    accelerator: config.machine.accelerator,
    ...(config.branched_from !== null && { branched_from: config.branched_from }),
    ...(config.parent_tag !== null && { parent_tag: config.parent_tag }),
    ...pickStats(config.stats),
  };
}

/** A damaged snapshot stays in the list, as failed, so that it can be seen and removed. */
export function infoOfListed(entry: Listed, dir: string): SnapshotInfo {
  if ('snapshot' in entry) return infoOfStored(entry.snapshot, dir);
  const { tag, error } = entry;
  return { tag, dir, created_at_unix: 0, status: 'failed', bootable: false, durable: true, error: error.message };
}

export function detailOf(
  snapshot: StoredSnapshot,
  dir: string,
  all: readonly StoredSnapshot[],
  dependents: readonly string[],
): SnapshotInfoDetail {
  const { config } = snapshot;
  const ancestors = ancestorsOf(snapshot.tag, all);
  return {
    tag: snapshot.tag,
    dir,
    created_at_unix: config.created_at_unix,
    memory_logical_bytes: config.machine.mem_mib * mib,
    memory_physical_bytes: snapshot.memory.reduce((sum, blob) => sum + blob.size, 0),
    vmstate_bytes: snapshot.deviceState.size,
    ...(config.parent_tag !== null && { parent_tag: config.parent_tag }),
    ...(config.parent_digest !== null && { parent_content_hash: config.parent_digest }),
    chain_depth: ancestors.length,
    dependents: [...dependents],
    ancestors,
  };
}

function pickStats(stats: Record<string, number>): Partial<Record<(typeof statFields)[number], number>> {
  return Object.fromEntries(statFields.filter((field) => field in stats).map((field) => [field, stats[field]]));
}
