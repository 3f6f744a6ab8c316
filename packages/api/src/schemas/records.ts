/** The shapes that the manifest of a snapshot, the record of a sandbox and an exported directory share. */
import { Type, type Static } from 'typebox';
import { DIGEST_PATTERN, engineNames, limits } from '../limits.ts';
import { Nullable } from './common.ts';

/** The name of a blob: the SHA-256 of its bytes. */
export const Digest = Type.Unsafe<`sha256:${string}`>(Type.String({ pattern: DIGEST_PATTERN }));
export type Digest = Static<typeof Digest>;

/** A blob by digest, with its size in bytes. */
export const Blob = Type.Object({ digest: Digest, size: Type.Integer({ minimum: 0 }) });
export type Blob = Static<typeof Blob>;

/** The processor of a guest that is not emulated. A restore on one that differs is refused. */
export const Processor = Type.Object({
  /** Vendor, such as `GenuineIntel`. */
  vendor: Type.String(),
  family: Type.Integer(),
  model: Type.Integer(),
  stepping: Type.Integer(),
  /** The names of all its flags, in order, with spaces between them. */
  flags: Type.String(),
  /** `sha256:…` of the flags. */
  flags_digest: Type.String(),
});
export type Processor = Static<typeof Processor>;

/** The machine of a snapshot. A restore on another machine is refused, and the error names the fields that differ. */
export const Machine = Type.Object({
  engine: Type.Enum(engineNames),
  /** The version that the program prints, such as `7.2.22`. */
  engine_version: Type.String(),
  /** QEMU's machine type with its options; of Firecracker, the devices that we give it. */
  machine: Type.String(),
  /** How the guest's instructions are run. */
  accelerator: Type.Enum(['kvm', 'tcg']),
  /** The processor model, as the VMM names it. */
  cpu_model: Type.String(),
  mem_mib: Type.Integer({ minimum: 1 }),
  vcpus: Type.Integer({ minimum: 1 }),
  /** Size of the disk to which the guest writes, in GiB. Absent if it has none. */
  disk_gib: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.diskGibMax })),
  /** The guest's processor. Absent if the guest is emulated, and in snapshots older than this field. */
  processor: Type.Optional(Processor),
  /** True if it has a network device. */
  network: Type.Optional(Type.Boolean()),
});
export type Machine = Static<typeof Machine>;

/** How a command starts in a root image, as the author of the image meant it. */
export const Image = Type.Object({
  env: Type.Record(Type.String(), Type.String()),
  /** An absolute path. */
  workdir: Type.String(),
  /** A name or a number, with `:group` if the image has one. */
  user: Type.String(),
  entrypoint: Type.Array(Type.String()),
  cmd: Type.Array(Type.String()),
});
export type Image = Static<typeof Image>;

/** A place in guest memory, and how to change it in each child before its first instruction. */
export const RefreshEntry = Type.Object({
  /** Offset in guest memory as the host maps it. An agent gives the guest-physical address instead. */
  at: Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
  bytes: Type.Integer({ minimum: 1, maximum: limits.refreshBytesMax }),
  op: Type.Enum(['mix', 'count', 'page']),
});
export type RefreshEntry = Static<typeof RefreshEntry>;

/** How children of a snapshot get random numbers of their own from their first instruction on. */
export const Refresh = Type.Object({
  entries: Type.Array(RefreshEntry, { maxItems: limits.refreshesMax }),
  /** Why the kernel's generator is not among the entries; `null` if it is. */
  unavailable: Nullable(Type.String({ maxLength: limits.refreshReasonBytesMax })),
});
export type Refresh = Static<typeof Refresh>;
