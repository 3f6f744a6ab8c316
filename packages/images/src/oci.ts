import { symlink } from 'node:fs/promises';
import path from 'node:path';
import { ImageError, requireRoot } from './errors.ts';
import { exists, readJson, sha256, sha256File } from './files.ts';
import { blobPath, gzipLayers } from './layers.ts';
import type { Descriptor } from './layers.ts';
import { recipeNames } from './recipes.ts';
import type { RootConfig, RootSource, SourceContext } from './root-source.ts';
import { run } from './run.ts';

/** skopeo and umoci name an image in a layout by a tag; ours has one image. */
const TAG = 'root';
const POLICY_FILES = ['/etc/containers/policy.json', `${process.env.HOME ?? ''}/.config/containers/policy.json`];
const PLATFORM = ['--override-os=linux', '--override-arch=amd64'];

/** An OCI image layout; `ref` is needed only where it holds several images. */
export function layoutSource(directory: string, ref: string | null): RootSource {
  const description = `OCI layout ${directory}${ref === null ? '' : `, image ${ref}`}`;
  const unusable = (failure: ImageError) => badImage(description, failure);
  return {
    description,
    identify: async () => `oci ${(await chooseImage(directory, ref)).digest}`,
    async unpack(tree, dir, context) {
      await chooseImage(directory, ref);
      const place = `oci:${await withoutColons(directory, dir)}`;
      const copied = await copyImage(ref === null ? place : `${place}:${ref}`, dir, context, unusable);
      return unpackLayout(copied, tree, context, unusable);
    },
  };
}

/** A tarball as `docker save` or `podman save` write it, compressed or not. */
export function archiveSource(file: string): RootSource {
  const description = `image archive ${file}`;
  const unusable = (failure: ImageError) => badImage(description, failure);
  return {
    description,
    identify: async ({ signal }) => `docker-archive ${await sha256File(file, signal)}`,
    async unpack(tree, dir, context) {
      const place = await withoutColons(file, dir);
      const copied = await copyImage(`docker-archive:${place}`, dir, context, unusable);
      return unpackLayout(copied, tree, context, unusable);
    },
  };
}

/** An image in a registry. Plain HTTP and unknown certificates are accepted from this machine's loopback only. */
export function registrySource(reference: string): RootSource {
  const description = `registry image ${reference}`;
  const unavailable = (failure: ImageError) => pullFailed(reference, failure);
  const insecure = isLoopback(reference);
  // What was identified is what is pulled, though the tag may move in between.
  let pinned = reference;
  return {
    description,
    async identify({ signal }) {
      const tls = insecure ? ['--tls-verify=false'] : [];
      const args = [...PLATFORM, ...(await policy()), 'inspect', '--raw', ...tls, `docker://${reference}`];
      const digest = sha256(await run('skopeo', args, { signal, onFailure: unavailable }));
      pinned = `${reference.replace(/@.*$/, '').replace(/:[^/:]+$/, '')}@${digest}`;
      return `oci ${digest}`;
    },
    async unpack(tree, dir, context) {
      context.onProgress('root: pulling');
      const tls = insecure ? ['--src-tls-verify=false'] : [];
      const copied = await copyImage(`docker://${pinned}`, dir, context, unavailable, ['--retry-times=3', ...tls]);
      return unpackLayout(copied, tree, context, (failure) => badImage(description, failure));
    },
  };
}

type OnFailure = (failure: ImageError) => ImageError;

/** Whatever the image came from, it becomes an OCI layout in the work directory. Returns the layout's path. */
async function copyImage(
  from: string,
  dir: string,
  { signal }: SourceContext,
  onFailure: OnFailure,
  extra: readonly string[] = [],
): Promise<string> {
  requireRoot('Unpacking a container image');
  const layout = path.join(dir, 'layout');
  const options = ['--quiet', '--dest-compress-level=1', ...extra];
  const args = [...PLATFORM, ...(await policy()), '--tmpdir', dir, 'copy', ...options, from, `oci:${layout}:${TAG}`];
  await run('skopeo', args, { signal, onFailure });
  return layout;
}

async function unpackLayout(
  layout: string,
  tree: string,
  { signal, onProgress }: SourceContext,
  onFailure: OnFailure,
): Promise<RootConfig> {
  onProgress('root: unpacking');
  await gzipLayers(layout, path.dirname(layout), signal);
  await run('umoci', ['raw', 'unpack', '--image', `${layout}:${TAG}`, tree], { signal, onFailure });
  const image = await chooseImage(layout, null);
  const manifest = await readJson<{ config: Descriptor }>(blobPath(layout, image.digest));
  return toConfig(await readJson<ImageConfig>(blobPath(layout, manifest.config.digest)));
}

interface ImageConfig {
  readonly config?: {
    readonly Env?: readonly string[] | null;
    readonly WorkingDir?: string;
    readonly User?: string;
    readonly Entrypoint?: readonly string[] | null;
    readonly Cmd?: readonly string[] | null;
  };
}

function toConfig({ config = {} }: ImageConfig): RootConfig {
  const pairs = (config.Env ?? []).map((entry): [string, string] => {
    const at = entry.indexOf('=');
    return at < 0 ? [entry, ''] : [entry.slice(0, at), entry.slice(at + 1)];
  });
  return {
    env: Object.fromEntries(pairs),
    workdir: path.posix.resolve('/', config.WorkingDir ?? ''),
    user: config.User === undefined || config.User === '' ? 'root' : config.User,
    entrypoint: config.Entrypoint ?? [],
    cmd: config.Cmd ?? [],
  };
}

/** The image that a reference names in a layout, or the only one. */
async function chooseImage(layout: string, ref: string | null): Promise<Descriptor> {
  const index = await readJson<{ manifests?: Descriptor[] }>(path.join(layout, 'index.json')).catch(
    (error: unknown) => {
      throw new ImageError(
        'bad_image',
        `${layout} is not an OCI layout: its index.json cannot be read.`,
        LAYOUT_HINT,
        error,
      );
    },
  );
  const images = index.manifests ?? [];
  const chosen = ref === null ? images : images.filter((image) => nameOf(image) === ref);
  if (chosen.length === 1) return chosen[0]!;
  const names = images.map(nameOf).join(', ');
  throw new ImageError(
    'bad_image',
    ref === null
      ? `The OCI layout ${layout} holds ${images.length} images${names === '' ? '' : `: ${names}`}.`
      : `The OCI layout ${layout} has no image '${ref}'; it has ${names === '' ? 'none' : names}.`,
    images.length === 0 ? LAYOUT_HINT : `Name one of them: oci:${layout}:NAME`,
  );
}

const LAYOUT_HINT = 'Make one with: skopeo copy docker://IMAGE oci:DIR:NAME';

function nameOf(image: Descriptor): string {
  return image.annotations?.['org.opencontainers.image.ref.name'] ?? '(no name)';
}

/** skopeo takes what follows a colon for a reference, and has no way to quote one: it gets a link instead. */
async function withoutColons(file: string, dir: string): Promise<string> {
  if (!file.includes(':')) return file;
  const link = path.join(dir, 'input');
  await symlink(file, link);
  return link;
}

/** Without a policy file, which the package only recommends, skopeo refuses every image; with one, the user's holds. */
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

function badImage(description: string, failure: ImageError): ImageError {
  return new ImageError(
    'bad_image',
    `The ${description} cannot be unpacked: ${lastMessage(failure)}`,
    'Save or pull it again; skopeo inspect shows whether other tools can read it.',
    failure.cause,
  );
}

function pullFailed(reference: string, failure: ImageError): ImageError {
  const isBareWord = /^[\w-]+$/.test(reference);
  const registry = /^[^/]*[.:][^/]*(?=\/)|^localhost(?=\/)/.exec(reference)?.[0];
  const login = `for a private image run: skopeo login ${registry ?? 'REGISTRY'}`;
  return new ImageError(
    'image_unavailable',
    `The image ${reference} could not be pulled: ${lastMessage(failure)}`,
    isBareWord
      ? `No path and no built-in recipe has this name, so a registry was asked. The recipes are: ${recipeNames()}.`
      : `Check its name and this machine's network; ${login}`,
    failure.cause,
  );
}

/** skopeo logs in logfmt, umoci for the eye: what a person wants is the last line's text. */
function lastMessage(failure: ImageError): string {
  const text = failure.cause instanceof Error ? failure.cause.message : failure.message;
  const line = text.trim().split('\n').at(-1) ?? '';
  const quoted = /\bmsg=("(?:[^"\\]|\\.)*")/.exec(line)?.[1];
  return quoted === undefined ? line.replace(/^[\s⨯]+/, '') : (JSON.parse(quoted) as string);
}
