import { lstat, readdir, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { holdsRootOrImage } from '@forkd/api/constants';
import { busyboxSource } from './busybox.ts';
import { debianSource } from './debian.ts';
import { directorySource } from './directory.ts';
import { ImageError } from './errors.ts';
import { exists, isDirectory } from './files.ts';
import { archiveSource, layoutSource, registrySource, type ArchiveKind } from './oci.ts';
import { recipeNames, recipes } from './recipes.ts';
import type { RootSource } from './root-source.ts';

/**
 * Decides what a name means: a prefix says it; else a path that exists wins, then a recipe's name, then a registry's
 * reference. A directory of a recipe's name wins only if it can be a source. The result's description tells the user which it was.
 */
export async function resolveSource(name: string): Promise<RootSource> {
  const prefixed = /^(oci|docker-archive|oci-archive|tar|docker|dir|recipe):(.+)$/s.exec(name);
  if (prefixed !== null) return fromPrefix(prefixed[1]!, prefixed[2]!);
  const isRecipe = Object.hasOwn(recipes, name);
  if (await exists(name)) return isRecipe && !(await canBeSource(name)) ? fromRecipe(name) : fromPath(name);
  if ((await lstat(name).catch(() => null)) !== null) throw notFound(name, 'it is a link to nowhere');
  if (isRecipe) return fromRecipe(name);
  if (/^[./~]/.test(name) || name.endsWith('.tar')) throw notFound(name, 'there is nothing');
  return registrySource(name);
}

async function fromPrefix(prefix: string, rest: string): Promise<RootSource> {
  if (prefix === 'recipe') return fromRecipe(rest);
  if (prefix === 'docker') return registrySource(rest.replace(/^\/\//, ''));
  if (prefix === 'oci') return layoutSource(...(await splitName(rest, isDirectory, 'there is no directory')));
  if (prefix === 'oci-archive') {
    const [file, ref] = await splitName(rest, exists, 'there is nothing');
    return archiveSource(file, prefix, ref);
  }
  if (!(await exists(rest))) throw notFound(rest, 'there is nothing');
  return prefix === 'dir' ? directorySource(resolve(rest)) : archiveSource(resolve(rest), prefix as ArchiveKind);
}

/** True for a file, and for a directory that holds a root or an image. */
async function canBeSource(path: string): Promise<boolean> {
  return !(await isDirectory(path)) || holdsRootOrImage(await readdir(path));
}

async function fromPath(name: string): Promise<RootSource> {
  const file = resolve(name);
  if ((await stat(file)).isFile()) return archiveSource(file, null);
  if (await exists(join(file, 'oci-layout'))) return layoutSource(file, null);
  const source = directorySource(file);
  if (!Object.hasOwn(recipes, name)) return source;
  return { ...source, description: `${source.description} (for the recipe of that name say recipe:${name})` };
}

function fromRecipe(name: string): RootSource {
  const recipe = Object.hasOwn(recipes, name) ? recipes[name] : undefined;
  if (recipe === undefined) {
    throw new ImageError('unknown_recipe', `There is no built-in recipe '${name}'.`, {
      hint: `There are: ${recipeNames()}.`,
    });
  }
  return recipe.base === 'busybox' ? busyboxSource(name, recipe.config) : debianSource(name, recipe);
}

/** `PATH` or `PATH:REF`: a reference may have colons itself, so the path that exists decides where it begins. */
async function splitName(
  rest: string,
  isThere: (path: string) => Promise<boolean>,
  problem: string,
): Promise<[string, string | null]> {
  for (let at = rest.length; at > 0; at = rest.lastIndexOf(':', at - 1)) {
    if (await isThere(rest.slice(0, at))) {
      const ref = rest.slice(at + 1);
      return [resolve(rest.slice(0, at)), ref === '' ? null : ref];
    }
  }
  throw notFound(rest, problem);
}

function notFound(name: string, what: string): ImageError {
  return new ImageError(
    'source_not_found',
    `${name} is not the source of a root file system: ${what} at ${resolve(name)}.`,
    {
      hint: `Give a directory, an OCI layout, a tarball of an image or of a root, a registry reference, or a recipe (${recipeNames()}).`,
    },
  );
}
