import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ImageError } from './errors.ts';
import { exists, readJson, sha256, sha256File } from './files.ts';
import type { Layer } from './unpack.ts';

export interface Descriptor {
  readonly mediaType?: string;
  readonly digest: string;
  readonly size?: number;
  readonly annotations?: Readonly<Record<string, string>> | null;
  readonly platform?: Platform | null;
}

interface Platform {
  readonly os?: string;
  readonly architecture?: string;
}

/** The config of an image. Every field may be missing or null. */
export interface ImageConfig extends Platform {
  readonly config?: Readonly<Record<string, unknown>> | null;
}

export interface Manifest {
  readonly config?: Descriptor | null;
  readonly layers?: readonly Descriptor[] | null;
  readonly manifests?: readonly Descriptor[] | null;
}

/** An image of a layout. */
export interface LayoutImage {
  readonly digest: string;
  readonly config: ImageConfig;
  readonly layers: readonly Layer[];
}

/** An OCI image layout, and how to speak of it to the user. */
export interface Layout {
  readonly directory: string;
  /** The layout in words, such as `OCI layout DIR`. */
  readonly description: string;
  /** The source without the name of an image, such as `oci:DIR`. */
  readonly source: string;
}

/** Guests have the processor of their host, which is an x86-64. */
export const PLATFORM = { os: 'linux', architecture: 'amd64' } as const;
const LAYOUT_HINT = 'Make one with `skopeo copy docker://IMAGE oci:DIR:NAME`.';
/** Registries allow 4 MiB. */
const JSON_BYTES_MAX = 16 * 1024 * 1024;
/** An index of indexes is as deep as tools make them. */
const INDEX_DEPTH_MAX = 4;

/**
 * The image that `ref` names in a layout, or the only one. Of an image for several platforms it is the one for guests; one
 * for another platform alone is refused.
 */
export async function chooseImage(layout: Layout, ref: string | null): Promise<LayoutImage> {
  const index = await readJson<Manifest>(join(layout.directory, 'index.json')).catch((error: unknown) => {
    throw new ImageError('bad_image', `${layout.directory} is not an OCI layout: its index.json cannot be read.`, {
      hint: LAYOUT_HINT,
      cause: error,
    });
  });
  const listed = index?.manifests ?? [];
  const named = ref === null ? listed : listed.filter((image) => nameOf(image) === ref);
  if (named.length === 0) throw noSuchImage(layout, listed, ref);
  const images = await expand(layout, named, 0);
  const fitting = images.filter(({ platform }) => isForGuests(platform));
  if (fitting.length === 0) throw wrongPlatform(layout, images);
  // The same image may have several names.
  if (new Set(fitting.map(({ digest }) => digest)).size === 1) return fitting[0]!;
  const names = named.map(nameOf).join(', ');
  throw new ImageError('bad_image', `The ${layout.description} holds ${fitting.length} images: ${names}.`, {
    hint: `Name one of them as ${layout.source}:NAME.`,
  });
}

function noSuchImage(layout: Layout, listed: readonly Descriptor[], ref: string | null): ImageError {
  const names = listed.length === 0 ? 'none' : listed.map(nameOf).join(', ');
  const sentence = ref === null ? 'holds no image.' : `has no image '${ref}'; it has ${names}.`;
  return new ImageError('bad_image', `The ${layout.description} ${sentence}`, {
    hint: listed.length === 0 ? LAYOUT_HINT : `Name one of them as ${layout.source}:NAME.`,
  });
}

interface Candidate extends LayoutImage {
  readonly platform: Platform;
}

/** The images that descriptors lead to, those of indexes among them. */
async function expand(layout: Layout, descriptors: readonly Descriptor[], depth: number): Promise<Candidate[]> {
  if (depth > INDEX_DEPTH_MAX) throw badLayout(layout, `its indexes are nested more than ${INDEX_DEPTH_MAX} deep`);
  const images: Candidate[] = [];
  for (const descriptor of descriptors) {
    // Records of how an image was built stand among images, and are for no platform.
    if (descriptor.annotations?.['vnd.docker.reference.type'] !== undefined) continue;
    const { platform } = descriptor;
    const isElsewhere = platform?.architecture !== undefined && !isForGuests(platform);
    // The content of an image for another platform need not be there.
    if (isElsewhere) images.push({ digest: descriptor.digest, platform, config: {}, layers: [] });
    else images.push(...(await readImages(layout, descriptor, depth)));
  }
  return images;
}

async function readImages(layout: Layout, descriptor: Descriptor, depth: number): Promise<Candidate[]> {
  const manifest = await readBlob<Manifest>(layout, descriptor);
  if (Array.isArray(manifest.manifests)) return expand(layout, manifest.manifests, depth + 1);
  if (manifest.config == null) throw badLayout(layout, `the manifest ${descriptor.digest} has no config`);
  const config = await readBlob<ImageConfig>(layout, manifest.config);
  const layers = (manifest.layers ?? []).map((layer) => ({ file: blobPath(layout, layer.digest), name: layer.digest }));
  return [{ digest: descriptor.digest, platform: config, config, layers }];
}

export function isForGuests({ os, architecture }: Platform): boolean {
  return isOr(os, PLATFORM.os) && isOr(architecture, PLATFORM.architecture);
}

/** An image that does not name its platform fits. */
function isOr(value: string | undefined, wanted: string): boolean {
  return value === undefined || value === '' || value === wanted;
}

function wrongPlatform(layout: Layout, images: readonly Candidate[]): ImageError {
  const found = images.map(({ platform }) => `${platform.os ?? 'linux'}/${platform.architecture}`);
  const what = found.length === 0 ? 'no platform' : [...new Set(found)].join(', ');
  const guests = `${PLATFORM.os}/${PLATFORM.architecture}`;
  return new ImageError('bad_image', `The ${layout.description} is for ${what}, and guests are ${guests}.`, {
    hint: `Take the image for ${guests}, for instance with \`docker pull --platform ${guests} IMAGE\`.`,
  });
}

async function readBlob<T extends object>(layout: Layout, { digest }: Descriptor): Promise<T> {
  const file = blobPath(layout, digest);
  const size = (await stat(file).catch(() => null))?.size;
  if (size === undefined) throw badLayout(layout, `the blob ${digest} is missing`);
  if (size > JSON_BYTES_MAX) throw badLayout(layout, `the blob ${digest} has ${size} bytes`);
  const data = await readFile(file);
  if (sha256(data) !== digest) throw badLayout(layout, `the blob ${digest} is damaged`);
  const value = parseObject(data.toString());
  if (value === null) throw badLayout(layout, `the blob ${digest} is not an object of JSON`);
  return value as T;
}

function parseObject(text: string): object | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}

/** Checks that the layers of an image are there, whole and unchanged. */
export async function checkLayers(layout: Layout, layers: readonly Layer[], signal?: AbortSignal): Promise<void> {
  for (const { file, name } of layers) {
    if (!(await exists(file))) throw badLayout(layout, `the layer ${name} is missing`);
    if ((await sha256File(file, signal)) !== name) throw badLayout(layout, `the layer ${name} is damaged`);
  }
}

function badLayout(layout: Layout, problem: string): ImageError {
  return new ImageError('bad_image', `The ${layout.description} is damaged: ${problem}.`, {
    hint: 'Save or pull it again; skopeo inspect shows whether other tools can read it.',
  });
}

/** A digest is checked, since it becomes part of a path. */
function blobPath(layout: Layout, digest: string): string {
  if (!/^sha256:[0-9a-f]{64}$/.test(digest)) throw badLayout(layout, `'${digest}' is not a SHA-256 digest`);
  return join(layout.directory, 'blobs', ...digest.split(':'));
}

function nameOf(image: Descriptor): string {
  return image.annotations?.['org.opencontainers.image.ref.name'] ?? '(no name)';
}
