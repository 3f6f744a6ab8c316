import { existsSync, readdirSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { holdsRootOrImage, recipeNames } from '@forkd/api/constants';
import { UsageError } from '../lib/errors.ts';

/**
 * Makes the paths of an image source absolute, because the controller has another working directory.
 * A bare name that is no file here is left to the controller: it may be a recipe or a registry reference.
 */
export function absoluteSource(source: string, directory: string): string {
  const prefixed = /^(oci|docker-archive|oci-archive|tar|dir):(.+)$/s.exec(source);
  if (prefixed !== null) return `${prefixed[1]}:${resolve(directory, prefixed[2] ?? '')}`;
  if (/^(docker|recipe):/.test(source)) return source;
  const isPath = /^\.{0,2}\//.test(source) || source === '.' || source === '..' || source.endsWith('.tar');
  const absolute = resolve(directory, source);
  if (!isPath && !existsSync(absolute)) return source;
  const isRecipe = recipeNames.some((name) => name === source) && !canBeSource(absolute);
  return isRecipe ? `recipe:${source}` : absolute;
}

/** True for a file, and for a directory that holds a root or an image: another one of a recipe's name is not meant. */
function canBeSource(path: string): boolean {
  return !statSync(path).isDirectory() || holdsRootOrImage(readdirSync(path));
}

/** Parses `SRC:DST`: a path here, and one in the guest. The last colon parts them, since a path here may have one. */
export function copyOf(text: string, directory: string): { from: string; to: string } {
  const colon = text.lastIndexOf(':');
  const [from, to] = [text.slice(0, Math.max(colon, 0)), text.slice(colon + 1)];
  if (from === '' || to === '') {
    throw new UsageError(`--copy: "${text}" is not SRC:DST.`, 'Write it as ./app:/srv/app.');
  }
  return { from: resolve(directory, from), to };
}
