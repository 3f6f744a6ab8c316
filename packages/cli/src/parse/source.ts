import { existsSync } from 'node:fs';
import { resolve } from 'node:path';

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
  return isPath || existsSync(absolute) ? absolute : source;
}
