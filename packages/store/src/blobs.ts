import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, copyFile, link, open, readdir, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Blob, type Digest, digestOfBytes, digestOfFile, hexOf, isDigest } from './digest.ts';
import { errnoOf, StoreError } from './errors.ts';
import { readCapped, removeFile, syncDirectory } from './files.ts';
import type { Paths } from './layout.ts';
import { SharedWork } from './shared-work.ts';

/** Prefix of the names of a pager's unfinished files. */
const PAGER_PREFIX = 'pager-';

/** The blobs under `blobs/sha256`, each named by the digest of its bytes. */
export class Blobs {
  readonly #paths: Paths;
  /** Digest → identity of the file whose bytes were hashed and found right. */
  readonly #verified = new Map<Digest, string>();
  readonly #verifying = new SharedWork<Digest>();

  constructor(paths: Paths) {
    this.#paths = paths;
  }

  path(digest: Digest): string {
    return join(this.#paths.blobs, hexOf(digest));
  }

  /** Takes a file in. `link` shares its data with the store: the caller must never write to it again. */
  async putFile(path: string, options: { link?: boolean; signal?: AbortSignal } = {}): Promise<Blob> {
    const temporary = this.#temporary();
    try {
      if (options.link !== true || !(await tryLink(path, temporary))) {
        await copyFile(path, temporary, constants.COPYFILE_FICLONE);
      }
      return await this.#publish(temporary, options.signal);
    } finally {
      await removeFile(temporary);
    }
  }

  async putBytes(bytes: Uint8Array): Promise<Blob> {
    const blob = { digest: digestOfBytes(bytes), size: bytes.length };
    if (await this.#holds(blob)) return blob;
    const temporary = this.#temporary();
    try {
      await writeFile(temporary, bytes, { flag: 'wx', mode: 0o600 });
      return await this.#publish(temporary);
    } finally {
      await removeFile(temporary);
    }
  }

  /** Reads a small blob, and holds it against its digest and size. */
  async read(blob: Blob, bytesMax: number): Promise<Buffer> {
    const tooLong = () => corrupt(blob.digest, `is longer than the ${bytesMax} bytes that are allowed`);
    const bytes = await readCapped(this.path(blob.digest), bytesMax, tooLong);
    if (bytes === null) throw missing(blob.digest);
    if (bytes.length !== blob.size) throw corrupt(blob.digest, `has ${bytes.length} bytes instead of ${blob.size}`);
    if (digestOfBytes(bytes) !== blob.digest) throw corrupt(blob.digest, 'holds other bytes than its name says');
    return bytes;
  }

  /** Throws unless the blob is there with this size. Reads nothing of it. */
  async check(blob: Blob): Promise<void> {
    const size = await this.#size(blob.digest);
    if (size === null) throw missing(blob.digest);
    if (size !== blob.size) throw corrupt(blob.digest, `has ${size} bytes instead of ${blob.size}`);
  }

  /** Reads all of the blob and throws unless it holds what its name says. */
  async verify(digest: Digest, signal?: AbortSignal): Promise<void> {
    if ((await this.#size(digest)) === null) throw missing(digest);
    const found = await digestOfFile(this.path(digest), signal);
    if (found.digest !== digest) throw corrupt(digest, `holds other bytes than its name says (${found.size} bytes)`);
    await this.#remember(digest);
  }

  /** Verifies a blob, and reads an unchanged file only once, even for several callers at the same time. */
  async verifyOnce(digest: Digest, signal?: AbortSignal): Promise<void> {
    const identity = await this.#identity(digest);
    if (identity === null) throw missing(digest);
    if (this.#verified.get(digest) === identity) return;
    await this.#verifying.run(digest, (shared) => this.verify(digest, shared), signal);
  }

  /** Removes all blobs but those of `keep`; what is no blob by its name is left alone. Returns the bytes that were freed. */
  async sweep(keep: ReadonlySet<string>): Promise<number> {
    let freed = 0;
    for (const name of await readdir(this.#paths.blobs)) {
      const digest = `sha256:${name}`;
      if (!isDigest(digest) || keep.has(digest)) continue;
      const path = join(this.#paths.blobs, name);
      const { size } = await stat(path);
      if (!(await removeFile(path))) continue;
      freed += size;
      this.#verified.delete(digest);
    }
    if (freed > 0) await syncDirectory(this.#paths.blobs);
    return freed;
  }

  /** Removes what writers left half-written, if it has not been touched for `ageMsMin`. */
  async sweepIngest(ageMsMin: number, { keepsPagers = false } = {}): Promise<number> {
    let freed = 0;
    for (const name of await readdir(this.#paths.ingest)) {
      if (keepsPagers && name.startsWith(PAGER_PREFIX)) continue;
      const path = join(this.#paths.ingest, name);
      const { size, mtimeMs } = await stat(path);
      if (Date.now() - mtimeMs < ageMsMin) continue;
      if (await removeFile(path)) freed += size;
    }
    return freed;
  }

  /** Hashes, syncs and renames a temporary file. What the store holds is what was hashed: not the caller's file. */
  async #publish(temporary: string, signal?: AbortSignal): Promise<Blob> {
    const blob = await digestOfFile(temporary, signal);
    if (await this.#holds(blob, signal)) return blob;
    await chmod(temporary, 0o444);
    const file = await open(temporary, 'r');
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, this.path(blob.digest));
    await syncDirectory(this.#paths.blobs);
    await this.#remember(blob.digest);
    return blob;
  }

  /** A blob of the right name but another size, or with other bytes, is what a crash or a disk has left: it is written again. */
  async #holds(blob: Blob, signal?: AbortSignal): Promise<boolean> {
    if ((await this.#size(blob.digest)) !== blob.size) return false;
    try {
      await this.verifyOnce(blob.digest, signal);
      return true;
    } catch (error) {
      if (error instanceof StoreError) return false;
      throw error;
    }
  }

  async #size(digest: Digest): Promise<number | null> {
    try {
      return (await stat(this.path(digest))).size;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return null;
      throw error;
    }
  }

  async #remember(digest: Digest): Promise<void> {
    const identity = await this.#identity(digest);
    if (identity !== null) this.#verified.set(digest, identity);
  }

  async #identity(digest: Digest): Promise<string | null> {
    try {
      const { dev, ino, size, mtimeNs } = await stat(this.path(digest), { bigint: true });
      return `${dev}:${ino}:${size}:${mtimeNs}`;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return null;
      throw error;
    }
  }

  #temporary(): string {
    return join(this.#paths.ingest, `store-${randomBytes(8).toString('hex')}`);
  }
}

/** Whether `from` could be linked: another file system, or a host that protects links, cannot. */
async function tryLink(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if (['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP'].includes(errnoOf(error) ?? '')) return false;
    throw error;
  }
}

function missing(digest: Digest): StoreError {
  return new StoreError('unknown_blob', `The blob ${digest} is not in the store.`);
}

function corrupt(digest: Digest, problem: string): StoreError {
  return new StoreError('corrupt_blob', `The blob ${digest} ${problem}.`, {
    hint: 'Remove the snapshots that use it and build them again.',
  });
}
