import { createWriteStream } from 'node:fs';
import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Image } from '@forkd/api';
import { ImageError, requireRoot } from './errors.ts';
import { exists, sha256, sha256File } from './files.ts';
import { imageOf } from './image-config.ts';
import { PLATFORM, checkLayers, chooseImage, isForGuests, type Layout, type Manifest } from './layout.ts';
import { watchPull } from './pull-progress.ts';
import { recipeNames } from './recipes.ts';
import type { RootSource, SourceContext } from './root-source.ts';
import { requireRootTree } from './root-tree.ts';
import { run, type RunOptions } from './run.ts';
import { readMembers, unpackLayers, type Bad } from './unpack.ts';

/** skopeo names an image in a layout by a tag; ours has one image. */
const TAG = 'root';
const POLICY_FILES = ['/etc/containers/policy.json', `${process.env.HOME ?? ''}/.config/containers/policy.json`];
const PLATFORM_OPTIONS = [`--override-os=${PLATFORM.os}`, `--override-arch=${PLATFORM.architecture}`];

/** An OCI image layout; `ref` is needed only where it holds several images. */
export function layoutSource(directory: string, ref: string | null): RootSource {
  const description = `OCI layout ${directory}`;
  const layout = { directory, description, source: `oci:${directory}` };
  return {
    description: ref === null ? description : `${description}, image ${ref}`,
    identify: async () => `image ${(await chooseImage(layout, ref)).digest}`,
    unpack: async (tree, _dir, context) => unpackLayout(layout, ref, tree, context),
  };
}

/** The kinds of tarballs: the output of `docker save`, an OCI layout, the files of a root. */
export type ArchiveKind = 'docker-archive' | 'oci-archive' | 'tar';

/** A tarball, compressed or not. `kind` null: its members tell. */
export function archiveSource(file: string, kind: ArchiveKind | null, ref: string | null = null): RootSource {
  const description = `image archive ${file}`;
  return {
    description: ref === null ? description : `${description}, image ${ref}`,
    identify: async ({ signal }) => `tarball ${kind ?? ''} ${ref ?? ''} ${await sha256File(file, signal)}`,
    async unpack(tree, dir, context) {
      requireRoot('Unpacking a container image');
      const bad = (problem: string, cause: unknown) => badImage(description, problem, cause);
      const unusable = (failure: ImageError) => bad(lastMessage(failure), failure.cause);
      const { signal } = context;
      const found = kind ?? (await kindOf(file, signal, bad));
      if (found === 'tar') {
        context.onProgress('root: unpacking');
        await unpackLayers([{ file, name: file }], { tree, signal, bad });
        await requireRootTree(tree, description);
        return imageOf({});
      }
      const layout = { directory: join(dir, 'layout'), description, source: `oci-archive:${file}` };
      if (found === 'oci-archive') await unpackOciArchive(file, layout.directory, signal, bad);
      else await copyImage(`docker-archive:${await withoutColons(file, dir)}`, dir, context, unusable);
      return unpackLayout(layout, ref, tree, context);
    },
  };
}

async function kindOf(file: string, signal: AbortSignal | undefined, bad: Bad): Promise<ArchiveKind> {
  const names = new Set<string>();
  const isTelling = /^(manifest\.json|oci-layout|index\.json)$/;
  for await (const { entry } of readMembers({ file, name: file }, signal, bad)) {
    const name = entry.path.replace(/^(\.?\/)+/, '');
    if (isTelling.test(name)) names.add(name);
  }
  // Docker writes both, of which the older one says more about the image's name.
  if (names.has('manifest.json')) return 'docker-archive';
  return names.has('oci-layout') || names.has('index.json') ? 'oci-archive' : 'tar';
}

/** Only the files that a layout has are taken, whatever else the archive holds. */
async function unpackOciArchive(
  file: string,
  directory: string,
  signal: AbortSignal | undefined,
  bad: Bad,
): Promise<void> {
  await mkdir(join(directory, 'blobs/sha256'), { recursive: true });
  for await (const { entry, content } of readMembers({ file, name: file }, signal, bad)) {
    const name = entry.path.replace(/^(\.?\/)+/, '');
    const isPart = entry.type === 'file' && /^(index\.json|blobs\/sha256\/[0-9a-f]{64})$/.test(name);
    if (isPart) await pipeline(Readable.from(content), createWriteStream(join(directory, name)), { signal });
  }
}

/** An image in a registry. Plain HTTP and unknown certificates are accepted from this machine's loopback only. */
export function registrySource(reference: string): RootSource {
  const description = `registry image ${reference}`;
  const unavailable = (failure: ImageError) => pullFailed(reference, failure);
  const insecure = isLoopback(reference);
  // Pull the digest that was identified, because the tag may move in between.
  let pinned = reference;
  const inspect = async (image: string, options: RunOptions) => {
    const tls = insecure ? ['--tls-verify=false'] : [];
    const args = [...PLATFORM_OPTIONS, ...(await policy()), 'inspect', '--raw', ...tls, `docker://${image}`];
    return run('skopeo', args, options);
  };
  return {
    description,
    async identify({ signal }) {
      const digest = sha256(await inspect(reference, { signal, onFailure: unavailable }));
      pinned = `${nameOf(reference)}@${digest}`;
      return `image ${digest}`;
    },
    async unpack(tree, dir, context) {
      context.onProgress('root: pulling');
      const tls = insecure ? ['--src-tls-verify=false'] : [];
      const { signal, onProgress } = context;
      // Only the progress needs the sizes: if they are unknown, the pull says what is wrong.
      const sizes = await layerSizes(pinned, (image) => inspect(image, { signal })).catch(() => null);
      const stopWatching = watchPull(join(dir, 'layout'), sizes, onProgress);
      let directory: string;
      try {
        directory = await copyImage(`docker://${pinned}`, dir, context, unavailable, ['--retry-times=3', ...tls]);
      } finally {
        await stopWatching();
      }
      return unpackLayout({ directory, description, source: `docker://${reference}` }, null, tree, context);
    },
  };
}

/** A reference without its tag and digest. */
function nameOf(reference: string): string {
  return reference.replace(/@.*$/, '').replace(/:[^/:]+$/, '');
}

/** The sizes of the layers of an image in a registry; of one for several platforms, of that for guests. `null`: unknown. */
async function layerSizes(
  pinned: string,
  inspect: (image: string) => Promise<Buffer>,
): Promise<readonly number[] | null> {
  let manifest = JSON.parse((await inspect(pinned)).toString()) as Manifest;
  const forGuests = manifest.manifests?.find(({ platform }) => platform != null && isForGuests(platform));
  if (forGuests !== undefined) {
    manifest = JSON.parse((await inspect(`${nameOf(pinned)}@${forGuests.digest}`)).toString()) as Manifest;
  }
  const sizes = manifest.layers?.map(({ size }) => size) ?? [];
  return sizes.length > 0 && sizes.every((size) => Number.isSafeInteger(size)) ? (sizes as number[]) : null;
}

type OnFailure = (failure: ImageError) => ImageError;

/** Copies an image into an OCI layout in the work directory. Returns the layout's path. */
async function copyImage(
  from: string,
  dir: string,
  { signal, onProgress }: SourceContext,
  onFailure: OnFailure,
  extra: readonly string[] = [],
): Promise<string> {
  requireRoot('Unpacking a container image');
  const layout = join(dir, 'layout');
  const options = ['--dest-compress-level=1', ...extra];
  const args = [
    ...PLATFORM_OPTIONS,
    ...(await policy()),
    '--tmpdir',
    dir,
    'copy',
    ...options,
    from,
    `oci:${layout}:${TAG}`,
  ];
  await run('skopeo', args, { signal, onFailure, onLine: onProgress });
  return layout;
}

async function unpackLayout(
  layout: Layout,
  ref: string | null,
  tree: string,
  { signal, onProgress }: SourceContext,
): Promise<Image> {
  requireRoot('Unpacking a container image');
  onProgress('root: unpacking');
  const { layers, config } = await chooseImage(layout, ref);
  await checkLayers(layout, layers, signal);
  const bad: Bad = (problem, cause) => badImage(layout.description, problem, cause);
  await unpackLayers(layers, { tree, signal, bad, onProgress });
  return imageOf(config);
}

/** skopeo takes what follows a colon for a reference, and has no way to quote one: it gets a link instead. */
async function withoutColons(file: string, dir: string): Promise<string> {
  if (!file.includes(':')) return file;
  const link = join(dir, 'input');
  await symlink(file, link);
  return link;
}

/**
 * Skopeo refuses every image if there is no policy file, which its package only recommends. A policy of the user has
 * precedence.
 */
async function policy(): Promise<string[]> {
  for (const file of POLICY_FILES) {
    if (await exists(file)) return [];
  }
  return ['--insecure-policy'];
}

function isLoopback(reference: string): boolean {
  const host = /^(\[[^\]]+\]|[^/:]+)(:\d+)?\//.exec(reference)?.[1] ?? '';
  return host === 'localhost' || host === '[::1]' || /^127(\.\d+){3}$/.test(host);
}

function badImage(description: string, problem: string, cause: unknown): ImageError {
  return new ImageError('bad_image', `The ${description} cannot be unpacked: ${problem}`, {
    hint: 'Save or pull it again; skopeo inspect shows whether other tools can read it.',
    cause,
  });
}

function pullFailed(reference: string, failure: ImageError): ImageError {
  const isBareWord = /^[\w-]+$/.test(reference);
  const registry = /^[^/]*[.:][^/]*(?=\/)|^localhost(?=\/)/.exec(reference)?.[0];
  const login = `for a private image run: skopeo login ${registry ?? 'REGISTRY'}`;
  return new ImageError('image_unavailable', `The image ${reference} could not be pulled: ${lastMessage(failure)}`, {
    hint: isBareWord
      ? `No path and no built-in recipe has this name, so a registry was asked. The recipes are: ${recipeNames()}.`
      : `Check its name and this machine's network; ${login}`,
    cause: failure.cause,
  });
}

/** skopeo logs in logfmt: what a person wants is the last line's text. */
function lastMessage(failure: ImageError): string {
  const text = failure.cause instanceof Error ? failure.cause.message : failure.message;
  const line = text.trim().split('\n').at(-1) ?? '';
  const quoted = /\bmsg=("(?:[^"\\]|\\.)*")/.exec(line)?.[1];
  return quoted === undefined ? line : (JSON.parse(quoted) as string);
}
