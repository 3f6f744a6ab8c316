import { readdir } from 'node:fs/promises';
import { join } from 'node:path';

import { readCapped, writeFileAtomic } from '@forkd/store';
import { Type, type Static } from 'typebox';
import { Compile } from 'typebox/compile';

import { limits } from '../limits.ts';

const Nullable = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) => Type.Union([schema, Type.Null()]);
const Digest = Type.Unsafe<`sha256:${string}`>(Type.String({ pattern: '^sha256:[0-9a-f]{64}$' }));
const Unix = Type.Integer({ minimum: 0 });

export const MachineSchema = Type.Object({
  engine: Type.Union([Type.Literal('qemu'), Type.Literal('firecracker')]),
  engine_version: Type.String(),
  machine: Type.String(),
  accelerator: Type.Union([Type.Literal('kvm'), Type.Literal('tcg')]),
  cpu_model: Type.String(),
  mem_mib: Type.Integer({ minimum: 1 }),
  vcpus: Type.Integer({ minimum: 1 }),
});

export const BlobSchema = Type.Object({ digest: Digest, size: Type.Integer({ minimum: 0 }) });

export const ImageSchema = Type.Object({
  env: Type.Record(Type.String(), Type.String()),
  workdir: Type.String(),
  user: Type.String(),
  entrypoint: Type.Array(Type.String()),
  cmd: Type.Array(Type.String()),
});

const VmSchema = Type.Object({
  id: Type.String(),
  dir: Type.String(),
  pid: Type.Integer({ minimum: 1 }),
  startTicks: Type.Integer({ minimum: 0 }),
  machine: MachineSchema,
  stack: Type.Array(Type.String()),
});

/** What another controller must know to take a sandbox over: `sandboxes/<id>/sandbox.json`. */
export const SandboxRecord = Type.Object({
  format: Type.Literal(2),
  id: Type.String(),
  /** A template's VM lives only as long as its build: it is never adopted. */
  kind: Type.Union([Type.Literal('sandbox'), Type.Literal('template')]),
  /** `starting` is on disk before the VMM is: whoever finds it ends what was half-made. */
  state: Type.Union([Type.Literal('starting'), Type.Literal('running')]),
  snapshot_tag: Type.String(),
  snapshot_digest: Nullable(Digest),
  root_disk: BlobSchema,
  image: ImageSchema,
  source: Type.String(),
  python: Type.Boolean(),
  created_at_unix: Unix,
  branch_count: Type.Integer({ minimum: 0 }),
  last_branch_memory_path: Nullable(Type.String()),
  fork_ms: Nullable(Type.Number()),
  ready_ms: Nullable(Type.Number()),
  /** Of the VMM's own memory; without it there is none. */
  memory_limit_mib: Type.Optional(Type.Integer({ minimum: 1 })),
  /** `null` until the VM runs. */
  vm: Nullable(VmSchema),
  name: Nullable(Type.String()),
  labels: Type.Record(Type.String(), Type.String()),
  /** `null`: it lives until it is ended. */
  expires_at_unix: Nullable(Unix),
  on_expire: Type.Union([Type.Literal('kill'), Type.Literal('pause')]),
  paused: Type.Boolean(),
  /** The workspace whose live sandbox it is. */
  workspace: Nullable(Type.String()),
  /** Of the request that it was made for: if that was never answered, nobody knows of it. */
  request_key: Nullable(Type.String()),
  warnings: Type.Array(Type.String()),
});
export type SandboxRecord = Static<typeof SandboxRecord>;

/** What a record of format 1 does not say. */
export const settingsDefault = {
  name: null,
  labels: {},
  expires_at_unix: null,
  on_expire: 'kill',
  paused: false,
  workspace: null,
  request_key: null,
  warnings: [],
} as const satisfies Partial<Record<keyof SandboxRecord, unknown>>;

/** A record of any format that this version knows, as the newest. */
function upgrade(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('format' in value) || value.format !== 1) return value;
  return { ...settingsDefault, ...value, format: 2 };
}

const validator = Compile(SandboxRecord);
const fileName = 'sandbox.json';

export async function writeRecord(dir: string, record: SandboxRecord): Promise<void> {
  await writeFileAtomic(join(dir, fileName), `${JSON.stringify(record, null, 2)}\n`);
}

/** A directory of a sandbox as it was found; `record` is `null` where it cannot be read. */
export interface FoundRecord {
  id: string;
  dir: string;
  record: SandboxRecord | null;
}

/** Reads what all earlier controllers left. */
export async function readRecords(root: string): Promise<FoundRecord[]> {
  const found: FoundRecord[] = [];
  for (const id of await readdir(root)) {
    const dir = join(root, id);
    found.push({ id, dir, record: await readRecord(dir, id) });
  }
  return found;
}

async function readRecord(dir: string, id: string): Promise<SandboxRecord | null> {
  try {
    const bytes = await readCapped(join(dir, fileName), limits.recordBytesMax, () => new Error('too long'));
    const value: unknown = bytes === null ? null : upgrade(JSON.parse(bytes.toString('utf8')));
    return validator.Check(value) && value.id === id ? value : null;
  } catch {
    // Torn or foreign: the sandbox cannot be taken over, and is ended like one that was half-made.
    return null;
  }
}
