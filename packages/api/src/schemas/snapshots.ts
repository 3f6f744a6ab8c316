import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import { Argument, Count, ErrorEvent, HostPath, Measure, Omittable, Tag } from './common.ts';

export const SnapshotStatus = Type.Union([Type.Literal('writing'), Type.Literal('ready'), Type.Literal('failed')]);
export type SnapshotStatus = Static<typeof SnapshotStatus>;

/** A snapshot as every route returns it. What is optional is absent when empty, never null. */
export const SnapshotInfo = Type.Object({
  tag: Type.String(),
  dir: Type.String(),
  created_at_unix: Count,
  status: SnapshotStatus,
  bootable: Type.Boolean(),

  branched_from: Type.Optional(Type.String()),
  /** The snapshot that its source was started from. */
  parent_tag: Type.Optional(Type.String()),
  pause_ms: Type.Optional(Measure),
  diff_ms: Type.Optional(Measure),
  diff_physical_bytes: Type.Optional(Count),
  diff_logical_bytes: Type.Optional(Count),
  warning: Type.Optional(Type.String()),

  /** Why `status` is failed. */
  error: Type.Optional(Type.String()),
  /** On disk and synced; a snapshot that is only ready lives in the pager's memory. */
  durable: Type.Optional(Type.Boolean()),
  /** The image source that a template was built from. */
  source: Type.Optional(Type.String()),
  mem_mib: Type.Optional(Count),
  accelerator: Type.Optional(Type.String()),

  /** vCPUs stopped until vCPUs running again; `device_state_us` is the part that saved the devices. */
  pause_us: Type.Optional(Measure),
  device_state_us: Type.Optional(Measure),
  arm_us: Type.Optional(Measure),
  touched_pages: Type.Optional(Count),
  captured_pages: Type.Optional(Count),
  captured_bytes: Type.Optional(Count),
  capture_ms: Type.Optional(Measure),
  faults: Type.Optional(Count),
  /** Of the writes that met the protection after the pause: seen until released. */
  fault_wait_us_p50: Type.Optional(Measure),
  fault_wait_us_p99: Type.Optional(Measure),
  fault_wait_us_max: Type.Optional(Measure),
  /** Request received until ready, and until durable. */
  ready_ms: Type.Optional(Measure),
  durable_ms: Type.Optional(Measure),
});
export type SnapshotInfo = Static<typeof SnapshotInfo>;

export const SnapshotList = Type.Array(SnapshotInfo);

/** `GET /v1/snapshots/:tag/info`. */
export const SnapshotInfoDetail = Type.Object({
  tag: Type.String(),
  dir: Type.String(),
  created_at_unix: Type.Optional(Count),
  memory_logical_bytes: Count,
  memory_physical_bytes: Count,
  vmstate_bytes: Count,
  parent_tag: Type.Optional(Type.String()),
  parent_content_hash: Type.Optional(Type.String()),
  chain_depth: Count,
  dependents: Type.Array(Type.String()),
  /** Root first. */
  ancestors: Type.Array(Type.String()),
});
export type SnapshotInfoDetail = Static<typeof SnapshotInfoDetail>;

/** `POST /v1/snapshots`: boot, warm, snapshot. Exactly one of `source` and `rootfs`; `createSnapshotProblem` says so in words. */
export const CreateSnapshotRequest = Type.Object({
  tag: Tag,
  /** A kernel on the controller's host; the distribution's own when left out. */
  kernel: Omittable(HostPath),
  /** A root file system image on the controller's host. */
  rootfs: Omittable(HostPath),
  /** Accepted: guests can always write to their root, each to an overlay of its own. */
  rw: Type.Optional(Type.Boolean({ default: false })),
  /** Accepted; guests have no network yet, and a warning says so. */
  tap: Omittable(Type.String()),
  boot_wait_secs: Type.Optional(
    Type.Number({ default: limits.bootWaitSecsDefault, minimum: 0, maximum: limits.bootWaitSecsMax }),
  ),
  /** A recipe's name, an OCI layout, a docker-archive tarball, a registry reference or a directory. */
  source: Omittable(HostPath),
  /** Python, evaluated in the interpreter that every child will inherit. */
  warm: Omittable(Type.String({ maxLength: limits.codeBytesMax })),
  /** A command that is run to its end before the snapshot is taken. */
  warm_command: Omittable(Type.Array(Argument, { minItems: 1, maxItems: limits.commandArgsMax })),
  mem_mib: Type.Optional(
    Type.Integer({ default: limits.memMibDefault, minimum: limits.memMibMin, maximum: limits.memMibMax }),
  ),
  vcpus: Type.Optional(
    Type.Integer({ default: limits.vcpusDefault, minimum: limits.vcpusMin, maximum: limits.vcpusMax }),
  ),
});
export type CreateSnapshotRequest = Static<typeof CreateSnapshotRequest>;

/** What is wrong with the request beyond the schema, as a sentence; undefined when nothing is. */
export function createSnapshotProblem(request: CreateSnapshotRequest): string | undefined {
  const hasSource = typeof request.source === 'string';
  const hasRootfs = typeof request.rootfs === 'string';
  if (hasSource && hasRootfs) return `snapshot "${request.tag}": give either source or rootfs, not both`;
  if (!hasSource && !hasRootfs) return `snapshot "${request.tag}": one of source and rootfs is needed`;
  return undefined;
}

export const DeleteSnapshotQuery = Type.Object({
  cascade: Type.Optional(Type.Boolean()),
  force: Type.Optional(Type.Boolean()),
});
export type DeleteSnapshotQuery = Static<typeof DeleteSnapshotQuery>;

export const CompactSnapshotRequest = Type.Object({ to: Tag });
export type CompactSnapshotRequest = Static<typeof CompactSnapshotRequest>;

/** Whose files a snapshot is written as, or read from. */
const SnapshotFormat = Type.Literal('firecracker');

/** `POST /v1/snapshots/:tag/export`, on the unix socket only. */
export const ExportSnapshotRequest = Type.Object({
  format: SnapshotFormat,
  /** A directory of the controller's host that is not there yet; the one that it is in is. */
  dir: HostPath,
});
export type ExportSnapshotRequest = Static<typeof ExportSnapshotRequest>;

export const ExportSnapshotResponse = Type.Object({
  tag: Type.String(),
  format: SnapshotFormat,
  dir: Type.String(),
  memory_logical_bytes: Count,
  /** What the memory file has that is no hole; blocks that it shares with the store are counted. */
  memory_physical_bytes: Count,
  vmstate_bytes: Count,
});
export type ExportSnapshotResponse = Static<typeof ExportSnapshotResponse>;

/** `POST /v1/snapshots/:tag/import`, on the unix socket only. */
export const ImportSnapshotRequest = Type.Object({
  format: SnapshotFormat,
  /** A directory of the controller's host with `vmstate` and `memory.bin` in it. */
  dir: HostPath,
  /** The root image, where the directory has none. */
  rootfs: Omittable(HostPath),
  /** Processors of the VM, where the directory was not written by an export. */
  vcpus: Omittable(Type.Integer({ minimum: limits.vcpusMin, maximum: limits.vcpusMax })),
});
export type ImportSnapshotRequest = Static<typeof ImportSnapshotRequest>;

/** `POST /v1/snapshots/prune`: removes branches that are old or many. Templates, and what others need, stay. */
export const PruneSnapshotsRequest = Type.Object({
  older_than_secs: Omittable(Type.Integer({ minimum: 0 })),
  /** Of the branches of each template, this many of the newest stay. */
  keep: Omittable(Type.Integer({ minimum: 0 })),
  /** Only say what would be removed. */
  dry_run: Type.Optional(Type.Boolean({ default: false })),
});
export type PruneSnapshotsRequest = Static<typeof PruneSnapshotsRequest>;

export const PruneSnapshotsResponse = Type.Object({
  removed: Type.Array(Type.String()),
  /** Those that are due, and why they stay all the same. */
  kept: Type.Array(Type.Object({ tag: Type.String(), reason: Type.String() })),
});
export type PruneSnapshotsResponse = Static<typeof PruneSnapshotsResponse>;

export const SnapshotProgressEvent = Type.Object({
  type: Type.Literal('progress'),
  /** A stable word, such as `image`, `boot`, `warm`, `snapshot`. */
  stage: Type.String(),
  message: Type.String(),
  /** Since the request was received. */
  elapsed_ms: Measure,
});
export type SnapshotProgressEvent = Static<typeof SnapshotProgressEvent>;

export const SnapshotResultEvent = Type.Object({
  type: Type.Literal('result'),
  snapshot: SnapshotInfo,
  build_ms: Measure,
  boot_ms: Measure,
  warm_ms: Measure,
  snapshot_ms: Measure,
});
export type SnapshotResultEvent = Static<typeof SnapshotResultEvent>;

/** One line of the streamed reply of `POST /v1/snapshots`; the last one is a result or an error. */
export const SnapshotEvent = Type.Union([SnapshotProgressEvent, SnapshotResultEvent, ErrorEvent]);
export type SnapshotEvent = Static<typeof SnapshotEvent>;
