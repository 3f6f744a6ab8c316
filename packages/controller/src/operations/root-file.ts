import { open } from 'node:fs/promises';
import { ApiError } from '@forkd/api';
import type { RootImage } from '@forkd/images';
import { errnoOf } from '@forkd/store';

/** EROFS' superblock begins at byte 1024, with this number. */
const SUPERBLOCK_OFFSET = 1024;
const EROFS_MAGIC = 0xe0f5e1e2;
/** The number in the superblock of ext2, ext3 and ext4, and where it is in that. */
const EXT_MAGIC = 0xef53;
const EXT_MAGIC_OFFSET = 0x38;

/** The root file system of a template. */
export interface Root extends Pick<RootImage, 'erofs' | 'config' | 'source'> {
  /** True if the file is never written again, so that the store may share its data. */
  frozen: boolean;
}

/** A root image that the user made: an EROFS file, without a configuration of its own. */
export async function readRootFile(path: string): Promise<Root> {
  let file;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
    throw new ApiError('image_not_found', `There is no root file system at ${path}.`, { cause: error });
  }
  try {
    const superblock = Buffer.alloc(64);
    if ((await file.stat()).isFile()) await file.read(superblock, 0, superblock.length, SUPERBLOCK_OFFSET);
    if (superblock.readUInt32LE() !== EROFS_MAGIC && superblock.readUInt16LE(EXT_MAGIC_OFFSET) === EXT_MAGIC) {
      throw new ApiError(
        'image_invalid',
        `${path} is an ext4 image, and a root must be an EROFS image or a directory.`,
        {
          hint: `Mount it with 'mount -o ro,loop ${path} DIR', and give DIR as the rootfs.`,
        },
      );
    }
    if (superblock.readUInt32LE() !== EROFS_MAGIC) {
      throw new ApiError('image_invalid', `${path} is not an EROFS image.`, {
        hint: "Make one with 'mkfs.erofs', or give a directory, an OCI image or a recipe as the source.",
      });
    }
    const config = { env: {}, workdir: '/', user: 'root', entrypoint: [], cmd: [] };
    return { erofs: path, config, source: `file ${path}`, frozen: false };
  } finally {
    await file.close();
  }
}
