import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Image, Machine, NetworkPolicy, Refresh, Blob, Digest, Nullable, OnExpire } from '@forkd/api';
import { writeFileAtomic } from '@forkd/store';
import { Type, type Static } from 'typebox';
import { Compile } from 'typebox/compile';
import { unixNow } from '../clock.ts';
import { readRecordFile } from './record-file.ts';

const Unix = Type.Integer({ minimum: 0 });

const VmSchema = Type.Object({
  id: Type.String(),
  dir: Type.String(),
  pid: Type.Integer({ minimum: 1 }),
  startTicks: Type.Integer({ minimum: 0 }),
  machine: Machine,
  stack: Type.Array(Type.String()),
  /** The name of its disk at the disk server. Absent if it has none. */
  diskKey: Type.Optional(Type.String()),
  /** The name of its network wire. */
  networkKey: Type.Optional(Type.String()),
});

/** The record from which another controller takes a sandbox over: `sandboxes/<id>/sandbox.json`. */
export const SandboxRecord = Type.Object({
  format: Type.Literal(2),
  id: Type.String(),
  /** The VM of a template lives only as long as its build, and is never adopted. */
  kind: Type.Union([Type.Literal('sandbox'), Type.Literal('template')]),
  /** `starting` is on disk before the VMM runs. A controller that finds it ends the sandbox. */
  state: Type.Union([Type.Literal('starting'), Type.Literal('running')]),
  snapshot_tag: Type.String(),
  snapshot_digest: Nullable(Digest),
  root_disk: Blob,
  image: Image,
  source: Type.String(),
  python: Type.Boolean(),
  /** Refresh places that the snapshot of the sandbox names; its branches name them too. Absent in earlier versions. */
  refresh: Type.Optional(Nullable(Refresh)),
  created_at_unix: Unix,
  branch_count: Type.Integer({ minimum: 0 }),
  last_branch_memory_path: Nullable(Type.String()),
  fork_ms: Nullable(Type.Number()),
  ready_ms: Nullable(Type.Number()),
  /** The memory limit of the VMM itself. Absent if there is none. */
  memory_limit_mib: Type.Optional(Type.Integer({ minimum: 1 })),
  /** The network policy. Absent if it has no network device. */
  network: Type.Optional(NetworkPolicy),
  /** `null` until the VM runs. */
  vm: Nullable(VmSchema),
  name: Nullable(Type.String()),
  labels: Type.Record(Type.String(), Type.String()),
  /** `null`: the sandbox lives until it is ended. */
  expires_at_unix: Nullable(Unix),
  on_expire: OnExpire,
  paused: Type.Boolean(),
  /** The workspace whose live sandbox this is. */
  workspace: Nullable(Type.String()),
  /** The key of the request that made the sandbox. If it was never answered, no caller knows of the sandbox. */
  request_key: Nullable(Type.String()),
  warnings: Type.Array(Type.String()),
});
export type SandboxRecord = Static<typeof SandboxRecord>;

/** The values of the fields that a record of format 1 does not have. */
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

type NewRecord = Pick<
  SandboxRecord,
  'id' | 'kind' | 'snapshot_tag' | 'snapshot_digest' | 'root_disk' | 'image' | 'source' | 'python' | 'refresh'
>;

/** The record of a sandbox that is about to be started. */
export function newRecord(known: NewRecord & Partial<SandboxRecord>): SandboxRecord {
  return {
    ...settingsDefault,
    labels: {},
    warnings: [],
    format: 2,
    state: 'starting',
    created_at_unix: unixNow(),
    branch_count: 0,
    last_branch_memory_path: null,
    fork_ms: null,
    ready_ms: null,
    vm: null,
    ...known,
  };
}

/** A record of any format that this version knows, as the newest. */
function upgrade(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('format' in value) || value.format !== 1) return value;
  return { ...settingsDefault, ...value, format: 2 };
}

const validator = Compile(SandboxRecord);
const FILE_NAME = 'sandbox.json';

export async function writeRecord(dir: string, record: SandboxRecord): Promise<void> {
  await writeFileAtomic(join(dir, FILE_NAME), `${JSON.stringify(record, null, 2)}\n`);
}

/** A directory of a sandbox as it was found. `record` is `null` if it cannot be read. */
export interface FoundRecord {
  id: string;
  dir: string;
  record: SandboxRecord | null;
}

/** Reads the records that all earlier controllers left. */
export async function readRecords(root: string): Promise<FoundRecord[]> {
  const found: FoundRecord[] = [];
  for (const id of await readdir(root)) {
    const dir = join(root, id);
    const record = await readRecordFile(join(dir, FILE_NAME), validator, upgrade);
    // A sandbox whose record is torn or foreign cannot be taken over, and is ended like one that was half-made.
    found.push({ id, dir, record: record?.id === id ? record : null });
  }
  return found;
}
