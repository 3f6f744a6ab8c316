import { Type, type Static } from 'typebox';
import { limits } from '../limits.ts';
import {
  Argument,
  Count,
  Environment,
  ErrorEvent,
  field,
  GuestPath,
  HostPath,
  Measure,
  Omittable,
  Safety,
  Tag,
  WindowKind,
} from './common.ts';
import { NetworkPolicy } from './network.ts';

export const SnapshotStatus = Type.Union([Type.Literal('writing'), Type.Literal('ready'), Type.Literal('failed')]);
export type SnapshotStatus = Static<typeof SnapshotStatus>;

export const RandomNumbers = Type.Union([Type.Literal('from_start'), Type.Literal('after_identity')]);

const randomNumbers = field(
  Type.Optional(RandomNumbers),
  'When a child starts to draw random numbers that no sibling draws: from its first instruction, or only after it has its ' +
    'own identity. In the second case `warning` says why.',
);
const parentTag = field(Type.Optional(Type.String()), 'Snapshot that its source was started from.');
const warning = field(Type.Optional(Type.String()), 'A restriction of this snapshot, in a sentence.');

const DIR_TEXT =
  'Directory of the store on the host. It has no `memory.bin` and no `vmstate`: a snapshot is a manifest and layers that ' +
  'snapshots share. An export writes such files.';

const snapshotExample = {
  tag: 'after-import',
  dir: '/var/lib/forkd/store',
  created_at_unix: 1_767_225_600,
  status: 'ready',
  bootable: true,
  branched_from: 'sb-3f9a1c0b7e',
  parent_tag: 'python',
  random_numbers: 'from_start',
  durable: true,
  mem_mib: 512,
  accelerator: 'kvm',
  window: 'inside',
  pause_us: 1780,
  pause_ms: 2,
  device_state_us: 930,
  captured_pages: 1204,
  captured_bytes: 4_931_584,
  ready_ms: 21.5,
  durable_ms: 38.1,
};

export const SnapshotInfo = Type.Object(
  {
    tag: field(Type.String(), 'Tag of the snapshot.'),
    dir: field(Type.String(), DIR_TEXT),
    created_at_unix: field(Count, 'Time of creation, in seconds since 1970.'),
    status: field(
      SnapshotStatus,
      '`writing`: not forkable yet. `ready`: can be forked. `failed`: cannot be forked; `error` says why.',
    ),
    bootable: field(Type.Boolean(), 'True if the snapshot can be forked.'),

    branched_from: field(Type.Optional(Type.String()), 'Id of the sandbox that was branched. Absent for templates.'),
    parent_tag: parentTag,
    pause_ms: field(Type.Optional(Count), '`pause_us` in whole milliseconds, rounded up.'),
    diff_ms: field(
      Type.Optional(Count),
      'Time to copy the changed pages, in whole milliseconds, rounded up: inside the pause for `diff` and `measure_diff`, ' +
        'after it for `live`.',
    ),
    diff_physical_bytes: field(
      Type.Optional(Count),
      'Size of the changed pages, which are all that a `diff` or `live` branch stores.',
    ),
    diff_logical_bytes: field(Type.Optional(Count), 'Guest memory size in bytes. Present with `diff_ms`.'),
    warning,
    random_numbers: randomNumbers,
    network: field(
      Type.Optional(NetworkPolicy),
      'What its children may reach, unless a fork says otherwise. Absent: they have no network device.',
    ),
    safety: field(
      Type.Optional(Safety),
      '`strict`: its programs stay frozen in each child until the child has its own identity.',
    ),

    error: field(Type.Optional(Type.String()), 'Why the snapshot failed, in a sentence.'),
    mismatch: field(
      Type.Optional(Type.String()),
      'Why this host cannot restore the snapshot, in a sentence: it has another QEMU or processor. Absent if it can, or if the ' +
        'controller runs with `--vmm-pool 0` and has started no VM yet.',
    ),
    durable: field(
      Type.Optional(Type.Boolean()),
      'True if the snapshot is on disk and synced. A snapshot that is only ready is held in the memory of the pager.',
    ),
    source: field(Type.Optional(Type.String()), 'Image that a template was built from.'),
    mem_mib: field(Type.Optional(Count), 'Guest memory size in MiB.'),
    disk_gib: field(Type.Optional(Count), 'Size of the disk in GiB. Absent: the guest has none.'),
    accelerator: field(Type.Optional(Type.String()), 'What runs the guest: `kvm`, or `tcg` for emulation.'),

    window: field(
      Type.Optional(WindowKind),
      'What conducted the pause of a live branch: the VMM itself from `inside`, or the pager over its `monitor`.',
    ),
    pause_us: field(Type.Optional(Measure), 'Time from stopping the processors until they ran again, in microseconds.'),
    device_state_us: field(Type.Optional(Measure), 'Part of the pause that saved the device state, in microseconds.'),
    arm_us: field(
      Type.Optional(Measure),
      'Time to write-protect guest memory before the pause, in microseconds. The guest runs meanwhile.',
    ),
    touched_pages: field(
      Type.Optional(Count),
      'Pages that were written between write protection and the pause, and were protected again inside the pause.',
    ),
    captured_pages: field(Type.Optional(Count), 'Pages that the new layer holds.'),
    captured_bytes: field(Type.Optional(Count), 'Bytes that the new layer holds.'),
    capture_ms: field(
      Type.Optional(Measure),
      'Time from the end of the pause until the last page was copied, in milliseconds.',
    ),
    faults: field(
      Type.Optional(Count),
      'Number of writes of the guest that had to wait for a page to be copied first.',
    ),
    fault_wait_us_p50: field(Type.Optional(Measure), 'Median wait of such a write, in microseconds.'),
    fault_wait_us_p99: field(Type.Optional(Measure), '99th percentile of the wait of such a write, in microseconds.'),
    fault_wait_us_max: field(Type.Optional(Measure), 'Longest wait of such a write, in microseconds.'),
    ready_ms: field(
      Type.Optional(Measure),
      'Time from the request until the snapshot could be forked, in milliseconds.',
    ),
    durable_ms: field(Type.Optional(Measure), 'Time from the request until the snapshot was on disk, in milliseconds.'),
    audited_pages: field(Type.Optional(Count), 'Number of pages that the audit of the branch compared.'),
    differing_pages: field(
      Type.Optional(Count),
      'Number of pages that differed in the audit. Always 0, because a page that differs fails the branch.',
    ),
    audited_blocks: field(
      Type.Optional(Count),
      'Number of blocks with content that the audit of the branch compared on the disk, of 4 KiB each.',
    ),
    differing_blocks: field(
      Type.Optional(Count),
      'Number of blocks that differed in the audit. Always 0, because a block that differs fails the branch.',
    ),
  },
  {
    description: 'A snapshot. An optional field is absent if it has no value, and never null.',
    examples: [snapshotExample],
  },
);
export type SnapshotInfo = Static<typeof SnapshotInfo>;

export const SnapshotList = Type.Array(SnapshotInfo);

const Copy = Type.Object({
  from: field(HostPath, "File or directory on the controller's host."),
  to: field(
    GuestPath,
    "Path in the image. Relative to the image's working directory. A directory if it ends with `/` or is one.",
  ),
});

/** `limits.cpuModels` as a schema. */
const CpuModel = Type.Union([Type.Literal('host'), Type.Literal('x86-64-v2')]);

export const CreateSnapshotRequest = Type.Object(
  {
    tag: field(Tag, 'Tag of the new template.'),
    kernel: field(
      Omittable(HostPath),
      "Kernel on the controller's host: an x86 bzImage. Default: the kernel of the host's distribution.",
    ),
    rootfs: field(
      Omittable(HostPath),
      "Root on the controller's host: an EROFS image or a directory. Exclusive with `source`.",
    ),
    rw: field(
      Type.Optional(Type.Boolean({ default: false })),
      'Accepted for older clients. A guest can always write to its root; each guest has its own overlay.',
    ),
    tap: field(
      Omittable(Type.String()),
      'Accepted for older clients. A guest has no tap device; a warning says so. See `network`.',
    ),
    network: field(
      Omittable(NetworkPolicy),
      'Gives the guest a network device, and says what its children may reach. It holds for the warm-up too, unless ' +
        '`warm_network` says otherwise. Without either there is no device, for good.',
    ),
    warm_network: field(
      Omittable(NetworkPolicy),
      'What the guest may reach during its warm-up, in place of `network`. Its children have the device and the rules of `network`, ' +
        'which are none by default. Connections that the warm-up leaves open and `network` does not allow are reset.',
    ),
    boot_wait_secs: field(
      Type.Optional(Type.Number({ default: limits.bootWaitSecsDefault, minimum: 0, maximum: limits.bootWaitSecsMax })),
      'With `rootfs`: how long to wait for the agent of the guest, in seconds.',
    ),
    source: field(
      Omittable(HostPath),
      'Image to build from: the name of a recipe, an OCI layout, a docker-archive tarball, a registry reference or a ' +
        'directory. Exclusive with `rootfs`.',
    ),
    env: field(Omittable(Environment), 'Variables that every command has, above those of the image.'),
    copy: field(
      Omittable(Type.Array(Copy, { maxItems: limits.copiesMax })),
      'Files to add to the root, in this order. Of a directory its content is copied. Needs a source that is not an EROFS image.',
    ),
    packages: field(
      Omittable(
        Type.Array(Type.String({ minLength: 1, maxLength: limits.packageCharsMax }), { maxItems: limits.packagesMax }),
      ),
      'Packages to add to the root: `pip:NAME` or `pip:NAME==VERSION` of a Python package, which any image with Python takes; ' +
        '`NAME` or `NAME=VERSION` of a Debian package, which the recipes `python` and `debian` take.',
    ),
    replace: field(
      Type.Optional(Type.Boolean({ default: false })),
      'True: a snapshot that has the tag is replaced once the new one is on disk, and stays if the build fails.',
    ),
    warm: field(
      Omittable(Type.String({ maxLength: limits.codeBytesMax })),
      'Python code, evaluated before the snapshot in the interpreter that every child inherits.',
    ),
    warm_command: field(
      Omittable(Type.Array(Argument, { minItems: 1, maxItems: limits.commandArgsMax })),
      'Command that is run to its end before the snapshot.',
    ),
    mem_mib: field(
      Type.Optional(
        Type.Integer({ default: limits.memMibDefault, minimum: limits.memMibMin, maximum: limits.memMibMax }),
      ),
      'Guest memory size in MiB.',
    ),
    vcpus: field(
      Type.Optional(Type.Integer({ default: limits.vcpusDefault, minimum: limits.vcpusMin, maximum: limits.vcpusMax })),
      'Number of processors of the guest.',
    ),
    disk_gib: field(
      Omittable(Type.Integer({ minimum: limits.diskGibMin, maximum: limits.diskGibMax })),
      'Size in GiB of a disk for what the guest writes. A branch captures it at the same instant as memory, and it takes as ' +
        'much space on the host as was written. Default: none, and files that the guest writes are kept in its memory.',
    ),
    cpu_model: field(
      Omittable(CpuModel),
      "`host` gives the guest all features of the host's processor; its snapshots restore only on hosts with the same " +
        'processor. Snapshots of `x86-64-v2` restore on every processor of the same vendor and of at least that level. QEMU ' +
        'only. Default: `host`.',
    ),
  },
  {
    description:
      'A template to build: boot an image, warm it up, take a snapshot. Exactly one of `source` and `rootfs`.',
    examples: [
      {
        tag: 'python',
        source: 'python:3.12-slim',
        packages: ['pip:requests'],
        warm: 'import requests',
        mem_mib: 512,
      },
    ],
  },
);
export type CreateSnapshotRequest = Static<typeof CreateSnapshotRequest>;

export const SnapshotInfoDetail = Type.Object(
  {
    tag: field(Type.String(), 'Tag of the snapshot.'),
    dir: field(Type.String(), DIR_TEXT),
    created_at_unix: field(Type.Optional(Count), 'Time of creation, in seconds since 1970.'),
    memory_logical_bytes: field(Count, 'Guest memory size in bytes.'),
    memory_physical_bytes: field(
      Count,
      'Size of the layers of the snapshot on disk, in bytes. Layers that other snapshots share are included.',
    ),
    disk_physical_bytes: field(
      Type.Optional(Count),
      'Size of all layers of its disk in the store. Absent: it has no disk.',
    ),
    vmstate_bytes: field(Count, 'Size of the device state on disk, in bytes.'),
    random_numbers: randomNumbers,
    warning,
    parent_tag: parentTag,
    parent_content_hash: field(Type.Optional(Type.String()), 'Digest of the manifest of the parent.'),
    chain_depth: field(Count, 'Number of ancestors.'),
    dependents: field(
      Type.Array(Type.String()),
      'Tags of the branches that name this snapshot as their `parent_tag`, and keep it.',
    ),
    ancestors: field(Type.Array(Type.String()), 'Tags of the ancestors, from the root to the parent.'),
    build: field(
      Type.Optional(CreateSnapshotRequest),
      'The request that the template was built with: sent again with `replace`, it builds the template again. Absent for branches, ' +
        'and for templates of earlier versions.',
    ),
  },
  {
    description: 'The sizes of a snapshot, its ancestors and its dependents.',
    examples: [
      {
        tag: 'after-import',
        dir: '/var/lib/forkd/store',
        created_at_unix: 1_767_225_600,
        memory_logical_bytes: 536_870_912,
        memory_physical_bytes: 61_865_984,
        vmstate_bytes: 37_120,
        parent_tag: 'python',
        chain_depth: 1,
        dependents: [],
        ancestors: ['python'],
      },
    ],
  },
);
export type SnapshotInfoDetail = Static<typeof SnapshotInfoDetail>;

/** The mistake in a request that its schema cannot express, as a sentence. Undefined if nothing is wrong. */
export function createSnapshotProblem(request: CreateSnapshotRequest): string | undefined {
  const hasSource = typeof request.source === 'string';
  const hasRootfs = typeof request.rootfs === 'string';
  if (hasSource && hasRootfs) return `Snapshot "${request.tag}": give either source or rootfs, not both.`;
  if (!hasSource && !hasRootfs) return `Snapshot "${request.tag}": source or rootfs is required.`;
  return undefined;
}

export const DeleteSnapshotQuery = Type.Object({
  cascade: field(Type.Optional(Type.Boolean()), 'True: remove the snapshots that keep it, too.'),
  force: field(
    Type.Optional(Type.Boolean()),
    'True: remove only this snapshot, even if others keep it. They stay usable.',
  ),
});
export type DeleteSnapshotQuery = Static<typeof DeleteSnapshotQuery>;

export const CompactSnapshotRequest = Type.Object(
  { to: field(Tag, 'Tag of the new snapshot.') },
  { description: 'How to compact a snapshot.', examples: [{ to: 'after-import-flat' }] },
);
export type CompactSnapshotRequest = Static<typeof CompactSnapshotRequest>;

const SnapshotFormat = Type.Literal('firecracker');
const format = field(SnapshotFormat, 'File format: that of Firecracker.');

export const ExportSnapshotRequest = Type.Object(
  {
    format,
    dir: field(
      HostPath,
      "Directory to create on the controller's host. It must not exist; its parent directory must exist.",
    ),
  },
  { description: 'Where to export a snapshot to.', examples: [{ format: 'firecracker', dir: '/srv/export/python' }] },
);
export type ExportSnapshotRequest = Static<typeof ExportSnapshotRequest>;

export const ExportSnapshotResponse = Type.Object(
  {
    tag: field(Type.String(), 'Tag of the snapshot.'),
    format,
    dir: field(Type.String(), 'Directory that was created.'),
    memory_logical_bytes: field(Count, 'Length of the memory file in bytes: the guest memory size.'),
    memory_physical_bytes: field(
      Count,
      'Bytes that the memory file occupies on disk, without its holes. Blocks that it shares with the store are included.',
    ),
    vmstate_bytes: field(Count, 'Size of the device state in bytes.'),
  },
  {
    description: 'An exported snapshot.',
    examples: [
      {
        tag: 'python',
        format: 'firecracker',
        dir: '/srv/export/python',
        memory_logical_bytes: 536_870_912,
        memory_physical_bytes: 61_865_984,
        vmstate_bytes: 37_120,
      },
    ],
  },
);
export type ExportSnapshotResponse = Static<typeof ExportSnapshotResponse>;

export const ImportSnapshotRequest = Type.Object(
  {
    format,
    dir: field(HostPath, "Directory on the controller's host with the files `vmstate` and `memory.bin`."),
    rootfs: field(Omittable(HostPath), 'Root image. Needed if the directory has none.'),
    vcpus: field(
      Omittable(Type.Integer({ minimum: limits.vcpusMin, maximum: limits.vcpusMax })),
      'Number of processors of the VM. Needed if the directory was not written by an export.',
    ),
  },
  { description: 'Files to import as a snapshot.', examples: [{ format: 'firecracker', dir: '/srv/export/python' }] },
);
export type ImportSnapshotRequest = Static<typeof ImportSnapshotRequest>;

export const PruneSnapshotsRequest = Type.Object(
  {
    older_than_secs: field(
      Omittable(Type.Integer({ minimum: 0 })),
      'Remove branches that are older than this, in seconds.',
    ),
    keep: field(Omittable(Type.Integer({ minimum: 0 })), 'Keep this many of the newest branches of each template.'),
    dry_run: field(
      Type.Optional(Type.Boolean({ default: false })),
      'True: remove nothing, and only report what would be removed.',
    ),
  },
  { description: 'Which branches to remove.', examples: [{ older_than_secs: 604_800, keep: 5, dry_run: true }] },
);
export type PruneSnapshotsRequest = Static<typeof PruneSnapshotsRequest>;

export const PruneSnapshotsResponse = Type.Object(
  {
    removed: field(Type.Array(Type.String()), 'Tags that were removed, or would be with `dry_run`.'),
    kept: field(
      Type.Array(
        Type.Object({
          tag: field(Type.String(), 'Tag of the branch.'),
          reason: field(Type.String(), 'Why the branch is kept, in a sentence.'),
        }),
      ),
      'Branches that are due and are kept all the same.',
    ),
  },
  {
    description: 'The outcome of a prune.',
    examples: [
      { removed: ['try-1', 'try-2'], kept: [{ tag: 'try-3', reason: 'Sandbox sb-3f9a1c0b7e was started from it.' }] },
    ],
  },
);
export type PruneSnapshotsResponse = Static<typeof PruneSnapshotsResponse>;

export const SnapshotProgressEvent = Type.Object(
  {
    type: field(Type.Literal('progress'), 'The build has made progress.'),
    stage: field(
      Type.String(),
      'A stable word, such as `image`, `boot`, `warm` or `snapshot`. `output`: a line that the warm-up command printed.',
    ),
    message: field(Type.String(), 'What is being done, in words.'),
    elapsed_ms: field(Measure, 'Time since the request, in milliseconds.'),
  },
  { examples: [{ type: 'progress', stage: 'boot', message: 'The guest is booting.', elapsed_ms: 812.4 }] },
);
export type SnapshotProgressEvent = Static<typeof SnapshotProgressEvent>;

export const SnapshotResultEvent = Type.Object(
  {
    type: field(Type.Literal('result'), 'The template is on disk.'),
    snapshot: field(SnapshotInfo, 'The template.'),
    build_ms: field(Measure, 'Time to build the root image, in milliseconds.'),
    boot_ms: field(Measure, 'Time to boot the guest, in milliseconds.'),
    warm_ms: field(Measure, 'Time to warm the guest up, in milliseconds.'),
    snapshot_ms: field(Measure, 'Time to take the snapshot, in milliseconds.'),
  },
  {
    examples: [
      {
        type: 'result',
        snapshot: {
          tag: 'python',
          dir: '/var/lib/forkd/store',
          created_at_unix: 1_767_225_600,
          status: 'ready',
          bootable: true,
        },
        build_ms: 0,
        boot_ms: 1320,
        warm_ms: 410,
        snapshot_ms: 95,
      },
    ],
  },
);
export type SnapshotResultEvent = Static<typeof SnapshotResultEvent>;

export const SnapshotEvent = Type.Union([SnapshotProgressEvent, SnapshotResultEvent, ErrorEvent], {
  description: 'One line of the streamed reply of a build. The last line is a result or an error.',
});
export type SnapshotEvent = Static<typeof SnapshotEvent>;
