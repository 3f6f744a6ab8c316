import type { DirEntry } from '@forkd/api';
import { textOf } from './bytes.ts';
import type { ForkdClient } from './client.ts';
import { isForkdError } from './errors.ts';
import { callOptions, type RequestOptions } from './options.ts';
import type { RequestBody } from './transport.ts';

/**
 * The files of one sandbox. Paths are absolute, in the guest.
 * All operations reject with a ForkdError: `not_found_file`, `permission_denied`, `is_a_directory`, ….
 */
export class Files {
  readonly #client: ForkdClient;
  readonly #sandboxId: string;

  constructor(client: ForkdClient, sandboxId: string) {
    this.#client = client;
    this.#sandboxId = sandboxId;
  }

  /** As UTF-8 text. */
  async read(path: string, options: RequestOptions = {}): Promise<string> {
    return textOf(await this.readBytes(path, options));
  }

  readBytes(path: string, options: RequestOptions = {}): Promise<Uint8Array> {
    return this.#client.readFile(this.#sandboxId, path, callOptions(options));
  }

  /** For a file of any size: chunks as they come. */
  readStream(path: string, options: RequestOptions = {}): AsyncGenerator<Uint8Array> {
    return this.#client.readFileStream(this.#sandboxId, path, callOptions(options));
  }

  /** Makes the file, and the folders that it is in, or replaces what is in it. `mode` in octal; default `0644`. */
  write(path: string, data: RequestBody, options: RequestOptions & { mode?: string | undefined } = {}): Promise<void> {
    const query = options.mode === undefined ? {} : { mode: options.mode };
    return this.#client.writeFile(this.#sandboxId, path, data, query, callOptions(options));
  }

  /** What is in a directory: `name`, `type`, `size` in bytes, `mode` in octal, `mtime_unix` in seconds. */
  list(path: string, options: RequestOptions = {}): Promise<DirEntry[]> {
    return this.#client.listDir(this.#sandboxId, path, callOptions(options));
  }

  /** Whether there is a file or a directory. */
  async exists(path: string, options: RequestOptions = {}): Promise<boolean> {
    try {
      await this.list(path, options);
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_file')) return false;
      // It cannot be listed, and so it is there.
      if (isForkdError(error, 'not_a_directory') || isForkdError(error, 'too_many_entries')) return true;
      throw error;
    }
  }

  /** False when there was no such file. A directory that is not empty needs `recursive`. */
  async remove(path: string, options: RequestOptions & { recursive?: boolean | undefined } = {}): Promise<boolean> {
    const query = options.recursive === undefined ? {} : { recursive: options.recursive };
    try {
      await this.#client.deleteFile(this.#sandboxId, path, query, callOptions(options));
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_file')) return false;
      throw error;
    }
  }
}
