import {
  CreateSnapshotRequest,
  memBytesOf,
  MIB,
  type Refresh,
  type SnapshotInfo,
  type SnapshotInfoDetail,
} from '@forkd/api';
import type { BranchMode, BranchStats, VmBranchDone } from '@forkd/engine';
import { type Blob, type Listed, type MachineRecord, type StoredSnapshot, ancestorsOf } from '@forkd/store';
import { Compile } from 'typebox/compile';
import type { Draft } from './draft.ts';
import { randomWarning } from './refresh.ts';
import { snapshotNetworkOf } from './snapshot-network.ts';

const PAGE_BYTES = 4096;
const buildRequest = Compile(CreateSnapshotRequest);

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
  'audited_pages',
  'differing_pages',
  'audited_blocks',
  'differing_blocks',
] as const satisfies readonly (keyof SnapshotInfo)[];

/** Fields that older clients read as integers. Rounded up, so that a pause never reads as none; the store has the fraction. */
const wholeFields: ReadonlySet<string> = new Set(['pause_ms', 'diff_ms'] satisfies (typeof statFields)[number][]);

/** The measurements of the pager, in the names and units of the wire. Stages that were not reached are left out. */
export function statsOf(stats: BranchStats, mode: BranchMode, memMib: number): Record<string, number> {
  const captureMs = stats.capture_us / 1000;
  const reached = stats.ready_us > 0;
  return {
    ...(mode === 'live' && { window_inside: stats.window === 'inside' ? 1 : 0 }),
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
    ...(reached && diffOf(stats, mode, memMib)),
    ...(stats.durable_us > 0 && { durable_ms: stats.durable_us / 1000 }),
  };
}

/** The cost of a branch that stores changed pages only. A `full` branch has it if it was measured. */
function diffOf(stats: BranchStats, mode: BranchMode, memMib: number): Record<string, number> {
  const logical = { diff_logical_bytes: memMib * MIB };
  if (mode === 'live')
    return { diff_ms: stats.capture_us / 1000, diff_physical_bytes: stats.captured_bytes, ...logical };
  if (mode === 'full' && stats.diff_us === 0) return {};
  return { diff_ms: stats.diff_us / 1000, diff_physical_bytes: stats.diff_pages * PAGE_BYTES, ...logical };
}

type Audited = Pick<VmBranchDone, 'audit' | 'diskAudit'>;

/** The result of an audit, in the names of the wire. Empty if there was no audit. */
export function auditOf({ audit, diskAudit }: Audited): Record<string, number> {
  return {
    ...(audit && { audited_pages: audit.checked_pages, differing_pages: audit.differing_pages }),
    ...(diskAudit && { audited_blocks: diskAudit.checked_blocks, differing_blocks: diskAudit.differing_blocks }),
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
    ...(facts.machine !== null && sizesOf(facts.machine)),
    ...(facts.image !== null && randomOf(facts.refresh)),
    ...(facts.safety === 'strict' && { safety: facts.safety }),
    ...(facts.network !== null && { network: facts.network.policy }),
    ...(error !== null && { error: error.message }),
    ...pickStats(draft.stats),
  };
}

export function infoOfStored({ tag, config }: StoredSnapshot, dir: string): SnapshotInfo {
  const network = snapshotNetworkOf(config.machine.network === true, config.network);
  return {
    tag,
    dir,
    created_at_unix: config.created_at_unix,
    status: 'ready',
    bootable: true,
    durable: true,
    source: config.source,
    ...sizesOf(config.machine),
    ...(config.branched_from !== null && { branched_from: config.branched_from }),
    ...(config.parent_tag !== null && { parent_tag: config.parent_tag }),
    ...randomOf(config.refresh),
    ...(config.safety === 'strict' && { safety: config.safety }),
    ...(network !== null && { network: network.policy }),
    ...pickStats(config.stats),
  };
}

function sizesOf({
  mem_mib,
  disk_gib,
  accelerator,
}: MachineRecord): Pick<SnapshotInfo, 'mem_mib' | 'disk_gib' | 'accelerator'> {
  return { mem_mib, accelerator, ...(disk_gib !== undefined && { disk_gib }) };
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
    memory_logical_bytes: memBytesOf(config.machine),
    memory_physical_bytes: bytesOf(snapshot.memory),
    ...(snapshot.disk.length > 0 && { disk_physical_bytes: bytesOf(snapshot.disk) }),
    vmstate_bytes: snapshot.deviceState.size,
    ...randomOf(config.refresh),
    ...(config.parent_tag !== null && { parent_tag: config.parent_tag }),
    ...(config.parent_digest !== null && { parent_content_hash: config.parent_digest }),
    chain_depth: ancestors.length,
    dependents: [...dependents],
    ancestors,
    // Another version of forkd may have written it.
    ...(buildRequest.Check(config.build) && { build: config.build }),
  };
}

function bytesOf(blobs: readonly Blob[]): number {
  return blobs.reduce((sum, blob) => sum + blob.size, 0);
}

/** The moment from which the random numbers of a child are its own. */
function randomOf(refresh: Refresh | null): Pick<SnapshotInfo, 'random_numbers' | 'warning'> {
  const warning = randomWarning(refresh);
  return warning === undefined ? { random_numbers: 'from_start' } : { random_numbers: 'after_identity', warning };
}

type PickedStats = Partial<Record<(typeof statFields)[number], number>> & Pick<SnapshotInfo, 'window'>;

function pickStats(stats: Record<string, number>): PickedStats {
  const picked = statFields.flatMap((field) => {
    const value = stats[field];
    return value === undefined ? [] : [[field, wholeFields.has(field) ? Math.ceil(value) : value]];
  });
  // A snapshot's measurements are numbers. Those from before there was a choice lack this one.
  const { window_inside: inside } = stats;
  return {
    ...(inside !== undefined && { window: inside === 1 ? 'inside' : 'monitor' }),
    ...Object.fromEntries(picked),
  };
}
