import type { Image, Processor, Refresh, RefreshEntry } from '@forkd/api';
import { indexOutside, limits as apiLimits, messageOf, TAG_PATTERN } from '@forkd/api/constants';
import { type Blob, digestPattern, isDigest } from './digest.ts';
import { StoreError } from './errors.ts';
import { type Complain, Fields } from './fields.ts';
import { limits } from './limits.ts';
import type { MachineRecord, SnapshotConfig, SnapshotDraft, StoredSnapshot } from './snapshot.ts';

export const mediaTypes = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  artifact: 'application/vnd.forkd.snapshot.v1+json',
  config: 'application/vnd.forkd.snapshot.config.v1+json',
  memory: 'application/vnd.forkd.memory.layer.v1',
  deviceState: 'application/vnd.forkd.device-state.v1',
  rootDisk: 'application/vnd.forkd.disk.erofs.v1',
  disk: 'application/vnd.forkd.disk.layer.v1',
} as const;

export const tagPattern = new RegExp(TAG_PATTERN);

const FORMAT_VERSION = 1;

/** The bytes of a config blob. */
export function encodeConfig(config: SnapshotConfig): Buffer {
  return Buffer.from(`${JSON.stringify(config, null, 2)}\n`);
}

/** The bytes of a manifest. */
export function encodeManifest(draft: SnapshotDraft, config: Blob): Buffer {
  assertHasDisk(draft.config, draft.disk, (problem) => new Error(`snapshot '${draft.config.tag}' ${problem}`));
  const layers = [
    ...draft.memory.map((blob) => descriptor(mediaTypes.memory, blob)),
    descriptor(mediaTypes.deviceState, draft.deviceState),
    descriptor(mediaTypes.rootDisk, draft.rootDisk),
    ...draft.disk.map((blob) => descriptor(mediaTypes.disk, blob)),
  ];
  const manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.manifest,
    artifactType: mediaTypes.artifact,
    config: descriptor(mediaTypes.config, config),
    layers,
  };
  return Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`);
}

/** A manifest whose config blob has not been read yet. */
export interface ParsedManifest {
  config: Blob;
  memory: Blob[];
  deviceState: Blob;
  rootDisk: Blob;
  disk: Blob[];
}

/** Reads a manifest. Whatever is wrong in it is named with the tag and the field. */
export function parseManifest(tag: string, bytes: Uint8Array): ParsedManifest {
  const complain = complainOf(tag, 'manifest');
  const fields = new Fields(parseJson(bytes, complain), '', complain);
  fields.literal('schemaVersion', 2);
  fields.literal('mediaType', mediaTypes.manifest);
  fields.literal('artifactType', mediaTypes.artifact);
  const configFields = fields.object('config');
  configFields.literal('mediaType', mediaTypes.config);
  const config = readDescriptor(configFields, limits.configBytesMax);

  const layers = fields.objects('layers', limits.memoryLayersMax + limits.diskLayersMax + 2);
  const memory: Blob[] = [];
  let deviceState: Blob | undefined;
  let rootDisk: Blob | undefined;
  const disk: Blob[] = [];
  for (const layer of layers) {
    const blob = readDescriptor(layer, limits.blobBytesMax);
    const mediaType = layer.string('mediaType');
    if (mediaType === mediaTypes.memory && deviceState === undefined) memory.push(blob);
    else if (mediaType === mediaTypes.deviceState && deviceState === undefined) deviceState = blob;
    else if (mediaType === mediaTypes.rootDisk && deviceState !== undefined && rootDisk === undefined) rootDisk = blob;
    else if (mediaType === mediaTypes.disk && rootDisk !== undefined) disk.push(blob);
    else throw layer.fail('mediaType', `${mediaType} is unknown or out of order`);
  }
  if (deviceState === undefined) throw fields.fail('layers', 'has no device state');
  if (rootDisk === undefined) throw fields.fail('layers', 'has no root disk');
  return { config, memory, deviceState, rootDisk, disk };
}

/** Reads a config blob, and puts the snapshot together. */
export function parseConfig(tag: string, manifest: Blob, parsed: ParsedManifest, bytes: Uint8Array): StoredSnapshot {
  const complain = complainOf(tag, 'config');
  const fields = new Fields(parseJson(bytes, complain), '', complain);
  const format = fields.integer('format', 0, Number.MAX_SAFE_INTEGER);
  if (format !== FORMAT_VERSION) {
    throw new StoreError(
      'unsupported_format',
      `Snapshot '${tag}' has format ${format}, this forkd reads ${FORMAT_VERSION}.`,
      {
        hint: 'A newer forkd wrote it: upgrade this one, or build the snapshot again.',
      },
    );
  }
  const config: SnapshotConfig = {
    format: FORMAT_VERSION,
    tag: fields.string('tag', { pattern: tagPattern }),
    created_at_unix: fields.integer('created_at_unix', 0, Number.MAX_SAFE_INTEGER),
    machine: readMachine(fields.object('machine')),
    image: readImage(fields.object('image')),
    source: fields.string('source'),
    python: fields.boolean('python'),
    refresh: readRefresh(fields),
    safety: readSafety(fields),
    parent_tag: fields.nullable('parent_tag', () => fields.string('parent_tag', { pattern: tagPattern })),
    parent_digest: fields.nullable('parent_digest', () => {
      const digest = fields.string('parent_digest');
      if (!isDigest(digest)) throw fields.fail('parent_digest', 'is not a sha256 digest');
      return digest;
    }),
    // Snapshots of earlier versions have no such field, and all kept their parents.
    keeps_parent: fields.has('keeps_parent') ? fields.boolean('keeps_parent') : true,
    branched_from: fields.nullable('branched_from', () => fields.string('branched_from', { bytesMax: 128 })),
    ...(fields.has('build') && { build: fields.json('build') }),
    ...(fields.has('network') && { network: fields.json('network') }),
    stats: readStats(fields.object('stats')),
  };
  assertInMemory(config, fields);
  assertHasDisk(config, parsed.disk, (problem) => fields.fail('machine.disk_gib', problem));
  if (config.tag !== tag) throw fields.fail('tag', `is '${config.tag}', the index calls it '${tag}'`);
  const { config: configBlob, ...blobs } = parsed;
  return { tag, manifest, configBlob, config, ...blobs };
}

export function descriptor(mediaType: string, blob: Blob): { mediaType: string; digest: string; size: number } {
  return { mediaType, digest: blob.digest, size: blob.size };
}

export function readDescriptor(fields: Fields, sizeMax: number): Blob {
  const digest = fields.string('digest');
  if (!isDigest(digest)) throw fields.fail('digest', 'is not a sha256 digest');
  return { digest, size: fields.integer('size', 0, sizeMax) };
}

export function parseJson(bytes: Uint8Array, complain: Complain): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw complain('', `is not JSON: ${messageOf(error)}`);
  }
}

function complainOf(tag: string, part: 'manifest' | 'config'): Complain {
  return (path, problem) => {
    const where = path === '' ? part : `${part}.${path}`;
    return new StoreError('corrupt_manifest', `Snapshot '${tag}': ${where} ${problem}.`, {
      hint: `Remove it with 'forkd rmi ${tag}' and build it again.`,
    });
  };
}

function readMachine(fields: Fields): MachineRecord {
  return {
    engine: fields.string('engine', { bytesMax: 64 }),
    engine_version: fields.string('engine_version', { bytesMax: 128 }),
    machine: fields.string('machine', { bytesMax: 1024 }),
    accelerator: fields.string('accelerator', { bytesMax: 64 }),
    cpu_model: fields.string('cpu_model', { bytesMax: 256 }),
    mem_mib: fields.integer('mem_mib', 1, 1024 * 1024 * 1024),
    vcpus: fields.integer('vcpus', 1, 4096),
    ...(fields.has('disk_gib') && { disk_gib: fields.integer('disk_gib', 1, apiLimits.diskGibMax) }),
    ...(fields.has('processor') && { processor: readProcessor(fields.object('processor')) }),
    ...(fields.has('network') && { network: fields.boolean('network') }),
  };
}

function readProcessor(fields: Fields): Processor {
  return {
    vendor: fields.string('vendor', { bytesMax: 64 }),
    family: fields.integer('family', 0, 0xffff),
    model: fields.integer('model', 0, 0xffff),
    stepping: fields.integer('stepping', 0, 0xffff),
    flags: fields.string('flags', { bytesMax: 16 * 1024 }),
    flags_digest: fields.string('flags_digest', { pattern: digestPattern }),
  };
}

/** Snapshots of earlier versions do not have it. */
function readSafety(fields: Fields): SnapshotConfig['safety'] {
  if (!fields.has('safety')) return 'standard';
  const safety = fields.string('safety');
  if (safety !== 'standard' && safety !== 'strict') throw fields.fail('safety', `is '${safety}'`);
  return safety;
}

/** Snapshots of earlier versions do not have it. */
function readRefresh(fields: Fields): Refresh | null {
  if (!fields.has('refresh')) return null;
  return fields.nullable('refresh', () => {
    const refresh = fields.object('refresh');
    const { refreshReasonBytesMax: bytesMax, refreshesMax } = apiLimits;
    return {
      entries: refresh.objects('entries', refreshesMax).map(readRefreshEntry),
      unavailable: refresh.nullable('unavailable', () => refresh.string('unavailable', { bytesMax })),
    };
  });
}

function readRefreshEntry(fields: Fields): RefreshEntry {
  const op = fields.string('op');
  if (op !== 'mix' && op !== 'count' && op !== 'page') throw fields.fail('op', `is '${op}'`);
  const at = fields.integer('at', 0, Number.MAX_SAFE_INTEGER);
  return { at, bytes: fields.integer('bytes', 1, apiLimits.refreshBytesMax), op };
}

/** A refresh must stay inside guest memory. Otherwise it would write to memory of the host. */
function assertInMemory({ refresh, machine }: SnapshotConfig, fields: Fields): void {
  const index = indexOutside(refresh?.entries ?? [], machine);
  if (index >= 0) throw fields.fail(`refresh.entries[${index}]`, `is outside of ${machine.mem_mib} MiB of memory`);
}

/** A guest's memory knows what is on its disk: neither is a snapshot without the other. */
function assertHasDisk({ machine }: SnapshotConfig, disk: readonly Blob[], fail: (problem: string) => Error): void {
  if ((machine.disk_gib === undefined) === (disk.length === 0)) return;
  throw fail(disk.length === 0 ? 'has a disk, and none of its layers' : 'has layers of a disk, and no disk');
}

function readImage(fields: Fields): Image {
  const list = (key: string) => fields.strings(key, limits.imageListMax, limits.textBytesMax);
  return {
    env: readEnv(fields.object('env')),
    workdir: fields.string('workdir'),
    user: fields.string('user', { bytesMax: 256 }),
    entrypoint: list('entrypoint'),
    cmd: list('cmd'),
  };
}

function readEnv(fields: Fields): Record<string, string> {
  const keys = fields.keys();
  if (keys.length > limits.imageListMax) throw fields.fail('', `has ${keys.length} entries`);
  return Object.fromEntries(keys.map((key) => [key, fields.string(key, { bytesMax: limits.textBytesMax })]));
}

function readStats(fields: Fields): Record<string, number> {
  const keys = fields.keys();
  if (keys.length > limits.statsMax) throw fields.fail('', `has ${keys.length} entries`);
  return Object.fromEntries(keys.map((key) => [key, fields.number(key)]));
}
