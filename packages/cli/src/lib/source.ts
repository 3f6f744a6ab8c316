import { existsSync } from 'node:fs';
import path from 'node:path';

/**
 * An image source as the controller, whose directory is another, has to read it: paths made absolute.
 * What a bare name means, if no such file is here, is for the controller to say: a recipe or a registry reference.
 */
export function absoluteSource(source: string, directory: string): string {
  const prefixed = /^(oci|docker-archive|dir):(.+)$/s.exec(source);
  if (prefixed !== null) return `${prefixed[1]}:${path.resolve(directory, prefixed[2] ?? '')}`;
  if (/^(docker|recipe):/.test(source)) return source;
  const isPath = /^\.{0,2}\//.test(source) || source === '.' || source === '..' || source.endsWith('.tar');
  const absolute = path.resolve(directory, source);
  return isPath || existsSync(absolute) ? absolute : source;
}
