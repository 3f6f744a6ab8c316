import { lstat, readdir } from 'node:fs/promises';
import { ImageError } from './errors.ts';
import { run } from './run.ts';
import { shown } from './tar-read.ts';

/** Fixed, since it would otherwise be random and make every image differ. */
const UUID = '666f726b-6400-4000-8000-726f6f746673';
/** Linux allows 255, and so does the format. */
const NAME_BYTES_MAX = 254;

/**
 * Makes an image of a tree; equal trees give equal images, byte for byte.
 *
 * Times are kept and not zeroed (`-T0`), because Python ignores its compiled files when a source's time is not the one
 * that it was compiled at. What was written after `startedAtMs`, by the build and not by its input, gets the time of the
 * newest file of the input.
 */
export async function makeErofs(tree: string, image: string, startedAtMs: number, signal?: AbortSignal): Promise<void> {
  const { newestMtimeMs, longName } = await survey(Buffer.from(tree), startedAtMs);
  await run('mkfs.erofs', ['--quiet', '-zlz4', '-U', UUID, image, tree], {
    signal,
    env: { SOURCE_DATE_EPOCH: String(Math.floor(newestMtimeMs / 1000)) },
    onFailure: (failure) => (longName === null ? failure : nameTooLong(longName, tree, failure)),
  });
}

interface Survey {
  /** Directories do not count: unpacking a layer sets the times of those that the layer does not list. */
  newestMtimeMs: number;
  /** A name that the mkfs.erofs of Debian 12 cuts off. */
  longName: Buffer | null;
}

/** Looks at all files of a directory. Names are bytes. */
async function survey(directory: Buffer, beforeMs: number): Promise<Survey> {
  const found: Survey = { newestMtimeMs: 0, longName: null };
  for (const entry of await readdir(directory, { withFileTypes: true, encoding: 'buffer' })) {
    const file = Buffer.concat([directory, Buffer.from('/'), entry.name]);
    if (entry.name.length > NAME_BYTES_MAX) found.longName = file;
    if (entry.isDirectory()) {
      const below = await survey(file, beforeMs);
      found.newestMtimeMs = Math.max(found.newestMtimeMs, below.newestMtimeMs);
      found.longName ??= below.longName;
    } else {
      const { mtimeMs } = await lstat(file);
      if (mtimeMs < beforeMs) found.newestMtimeMs = Math.max(found.newestMtimeMs, mtimeMs);
    }
  }
  return found;
}

function nameTooLong(file: Buffer, tree: string, cause: ImageError): ImageError {
  const path = shown(file.toString('latin1', Buffer.byteLength(tree)));
  return new ImageError('bad_image', `The mkfs.erofs of this machine cuts off names of 255 bytes, such as ${path}.`, {
    hint: 'Give the file a name of at most 254 bytes, or install a newer erofs-utils.',
    cause,
  });
}
