import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { withWorkDir } from './files.ts';
import { run } from './run.ts';

/** Fixed, so that equal disks are equal byte for byte. Only one such disk is in a guest. */
const UUID = '666f726b-6400-4000-8000-6469736b6673';
/** A file system with default settings would give up to a gigabyte to its journal. */
const JOURNAL_MIB = 64;

export interface EmptyDiskOptions {
  readonly cacheDir: string;
  /** Size of the disk in GiB. */
  readonly gib: number;
  readonly signal?: AbortSignal;
}

/**
 * Makes a disk with an empty ext4 file system, as a sparse file of less than a megabyte, and removes it once `use` is done
 * with it. Equal sizes give equal disks.
 */
export async function withEmptyDisk<T>(options: EmptyDiskOptions, use: (file: string) => Promise<T>): Promise<T> {
  const { cacheDir, gib, signal } = options;
  return withWorkDir(cacheDir, async (dir) => {
    const file = join(dir, 'disk.ext4');
    const handle = await open(file, 'wx', 0o600);
    try {
      await handle.truncate(gib * 2 ** 30);
    } finally {
      await handle.close();
    }
    const extended = `lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed=${UUID}`;
    const settings = ['-J', `size=${JOURNAL_MIB}`, '-m', '0', '-U', UUID, '-O', '^resize_inode', '-E', extended];
    await run('mkfs.ext4', ['-q', '-F', '-b', '4096', ...settings, file], {
      signal,
      // The time of the file system's making is in it.
      env: { E2FSPROGS_FAKE_TIME: '1' },
    });
    return use(file);
  });
}
