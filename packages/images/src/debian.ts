import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Image } from '@forkd/api';
import { ImageError, requireRoot } from './errors.ts';
import { writeFileAtomic } from './files.ts';
import type { DebianRecipe } from './recipe.ts';
import type { RootSource } from './root-source.ts';
import { run } from './run.ts';

/** Files that no sandbox reads. Excluding them halves the number of files. */
const EXCLUDED = ['/usr/share/man/*', '/usr/share/info/*', '/usr/share/locale/*', '/usr/share/doc/*/changelog*'];
/** Debian copies them from the host, and they are nobody's business in a guest. */
const HOST_FILES = ['etc/hostname', 'etc/resolv.conf'];

/** A minimal Debian (or derivative) of this machine's own release, from this machine's own package sources. */
export function debianSource(name: string, recipe: DebianRecipe): RootSource {
  const { packages, config, user } = recipe;
  const what = ['minimal system', ...packages].join(' + ');
  return {
    description: `recipe ${name} (${what}, of this machine's distribution)`,
    withPackages: (more) => debianSource(name, { ...recipe, packages: [...packages, ...more] }),
    async identify() {
      const { id, codename } = await readRelease();
      return `debian ${id} ${codename} ${JSON.stringify({ packages, config, user })}`;
    },
    async unpack(tree, dir, { signal, onProgress }): Promise<Image> {
      requireRoot(`Building the recipe ${name}`);
      const { id, codename } = await readRelease();
      const sources = join(dir, 'sources.list');
      await writeFileAtomic(sources, await aptSources(id, signal));
      onProgress(`root: installing ${codename} with mmdebstrap (half a minute to two)`);
      await run('mmdebstrap', mmdebstrapArguments({ packages, codename, tree, sources, user }), {
        signal,
        env: { TMPDIR: dir },
        onLine: onProgress,
        onFailure: (failure) => recipeFailed(name, failure),
      });
      for (const file of HOST_FILES) await rm(join(tree, file), { force: true });
      return config;
    },
  };
}

interface Build {
  readonly packages: readonly string[];
  readonly codename: string;
  readonly tree: string;
  readonly sources: string;
  readonly user: string | undefined;
}

function mmdebstrapArguments({ packages, codename, tree, sources, user }: Build): string[] {
  return [
    '--variant=minbase',
    '--mode=root',
    '--format=directory',
    ...(packages.length === 0 ? [] : [`--include=${packages.join(',')}`]),
    // The tree is thrown away if the machine stops: there is nothing to sync file by file.
    '--dpkgopt=force-unsafe-io',
    ...EXCLUDED.map((pattern) => `--dpkgopt=path-exclude=${pattern}`),
    ...(user === undefined ? [] : userHooks(user).map((hook) => `--customize-hook=${hook}`)),
    codename,
    tree,
    sources,
  ];
}

/** Commands that mmdebstrap runs in the new system, whose directory is their first argument. */
function userHooks(user: string): string[] {
  return [
    `chroot "$1" useradd --create-home --shell /bin/bash ${user}`,
    `echo '${user} ALL=(ALL) NOPASSWD: ALL' > "$1/etc/sudoers.d/${user}"`,
  ];
}

interface Release {
  /** `debian`, `ubuntu`, … */
  readonly id: string;
  readonly codename: string;
}

/** The release of this machine. */
export async function readRelease(): Promise<Release> {
  const text = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const field = (key: string) => new RegExp(`^${key}="?([^"\\n]+)"?$`, 'm').exec(text)?.[1];
  const [id, codename] = [field('ID'), field('VERSION_CODENAME')];
  if (id !== undefined && codename !== undefined) return { id, codename };
  throw new ImageError(
    'image_unavailable',
    'The built-in recipes need Debian or a derivative, and /etc/os-release does not name such a release.',
    { hint: 'Use a container image instead: a registry reference, an OCI layout, or a tarball of docker save.' },
  );
}

/**
 * The distribution's own entries among this machine's apt sources; a third party's would only slow the build down, or
 * fail it. apt itself lists them, so whichever of its formats they are written in does not matter.
 */
export async function aptSources(id: string, signal: AbortSignal | undefined): Promise<string> {
  const format = '$(ORIGIN)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)';
  const output = await run('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'], { signal });
  const targets = output.toString().split('\n').filter(Boolean);
  const own = targets.map((line) => line.split('\t')).filter(([origin]) => origin?.toLowerCase() === id);
  if (own.length === 0) throw noSources(id);
  return [...new Set(own.map(([, uri, suite, component]) => `deb ${uri} ${suite} ${component}\n`))].join('');
}

function noSources(id: string): ImageError {
  return new ImageError(
    'image_unavailable',
    `This machine has no package lists of ${id}, so the recipe has nowhere to get its packages from.`,
    { hint: 'Run `apt-get update`.' },
  );
}

function recipeFailed(name: string, failure: ImageError): ImageError {
  const said = failure.cause instanceof Error ? failure.cause.message : '';
  const unknown = [...new Set(said.match(/^E: (Unable to locate package|Version .* was not found).*$/gm))];
  if (unknown.length > 0) {
    const sentence = unknown.map((line) => line.replace('E: ', '')).join('; ');
    return new ImageError('package_unavailable', `The recipe ${name} could not be built: ${sentence}.`, {
      hint: "Packages are those of this machine's own release. `apt-cache policy NAME` shows whether it has one.",
      cause: failure.cause,
    });
  }
  return new ImageError('image_unavailable', `The recipe ${name} could not be built: ${failure.message}`, {
    hint: `See that this machine reaches its package mirror, run apt-get update, and try again. ${failure.hint ?? ''}`,
    cause: failure.cause,
  });
}
