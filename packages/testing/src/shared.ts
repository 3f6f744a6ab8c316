/** Slow things that the files of one test run share. The first file that needs one builds it; the others wait. */

import { constants } from 'node:fs';
import { cp, mkdir, rename, rm, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const POLL_MS = 50;

/** The directory that the files of this test run share. The global set-up of the tests makes it, and removes it at the end. */
export function sharedDir(): string | undefined {
  return process.env['FORKD_TEST_SHARED'];
}

/** Returns the directory `dir`, which `build` fills unless it is there already. Callers of other processes wait meanwhile. */
export async function builtOnce(dir: string, build: (draft: string) => Promise<void>): Promise<string> {
  const draft = `${dir}.draft`;
  while (!(await exists(dir))) {
    if (!(await isCreated(draft))) {
      await delay(POLL_MS);
      continue;
    }
    // Another process may have finished between the two checks.
    if (await exists(dir)) {
      await rmdir(draft);
      break;
    }
    try {
      await build(draft);
      await rename(draft, dir);
    } catch (error) {
      await rm(draft, { recursive: true, force: true });
      throw error;
    }
  }
  return dir;
}

/** Copies the blobs of a store, its index and its layout. Where the file system can, both share the same blocks. */
export async function copyStore(from: string, to: string): Promise<void> {
  for (const name of ['blobs', 'index.json', 'oci-layout']) {
    const source = join(from, name);
    if (!(await exists(source))) continue;
    await cp(source, join(to, name), { recursive: true, mode: constants.COPYFILE_FICLONE });
  }
}

async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  );
}

/** True if this call has made the directory. */
async function isCreated(dir: string): Promise<boolean> {
  return mkdir(dir).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST') return false;
      throw error;
    },
  );
}
