import { open } from 'node:fs/promises';

import { ApiError } from '@forkd/api';
import type { RootImage } from '@forkd/images';
import { errnoOf } from '@forkd/store';

/** EROFS' superblock begins at byte 1024, with this number. */
const superblockOffset = 1024;
const erofsMagic = 0xe0f5e1e2;

/** What a template needs to know of its root file system. */
export interface Root extends Pick<RootImage, 'erofs' | 'config' | 'source'> {
  /** Nobody writes to the file any more: the store may share its data. */
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
    const magic = Buffer.alloc(4);
    const isFile = (await file.stat()).isFile() && (await file.read(magic, 0, 4, superblockOffset)).bytesRead === 4;
    if (!isFile || magic.readUInt32LE() !== erofsMagic) {
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
