import { posix } from 'node:path';
import type { Image } from '@forkd/api';
import type { ImageConfig } from './layout.ts';

/** Reads how an image starts its programs. Fields that are missing, null or of another type say nothing. */
export function imageOf({ config }: ImageConfig): Image {
  const { Env, WorkingDir, User, Entrypoint, Cmd } = config ?? {};
  const pairs = strings(Env).map((entry): [string, string] => {
    const at = entry.indexOf('=');
    return at < 0 ? [entry, ''] : [entry.slice(0, at), entry.slice(at + 1)];
  });
  return {
    env: Object.fromEntries(pairs.filter(([name]) => name !== '')),
    workdir: posix.resolve('/', typeof WorkingDir === 'string' ? WorkingDir : ''),
    user: typeof User === 'string' && User !== '' ? User : 'root',
    entrypoint: strings(Entrypoint),
    cmd: strings(Cmd),
  };
}

function strings(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === 'string') : [];
}
