import type { DirEntry } from '@forkd/api';
import type { ForkdClient } from './client.ts';
import type { CallOptions } from './deadline.ts';
import { isForkdError } from './errors.ts';
import type { RequestBody } from './transport.ts';

/** The files of one sandbox. Paths are absolute, in the guest. */
export class Files {
  readonly #client: ForkdClient;
  readonly #sandboxId: string;

  constructor(client: ForkdClient, sandboxId: string) {
    this.#client = client;
    this.#sandboxId = sandboxId;
  }

  /** As UTF-8 text. */
  async read(path: string, options: CallOptions = {}): Promise<string> {
    return Buffer.from(await this.readBytes(path, options)).toString('utf8');
  }

  readBytes(path: string, options: CallOptions = {}): Promise<Uint8Array> {
    return this.#client.readFile(this.#sandboxId, path, options);
  }

  /** For a file of any size: chunks as they come. */
  readStream(path: string, options: CallOptions = {}): AsyncGenerator<Uint8Array> {
    return this.#client.readFileStream(this.#sandboxId, path, options);
  }

  /** Makes the file or replaces what is in it. `mode` in octal, such as `0755`. */
  write(path: string, data: RequestBody, options: CallOptions & { mode?: string | undefined } = {}): Promise<void> {
    const { mode, ...call } = options;
    return this.#client.writeFile(this.#sandboxId, path, data, mode === undefined ? {} : { mode }, call);
  }

  list(path: string, options: CallOptions = {}): Promise<DirEntry[]> {
    return this.#client.listDir(this.#sandboxId, path, options);
  }

  /** False when there was no such file. */
  async remove(path: string, options: CallOptions & { recursive?: boolean } = {}): Promise<boolean> {
    const { recursive, ...call } = options;
    try {
      await this.#client.deleteFile(this.#sandboxId, path, recursive === undefined ? {} : { recursive }, call);
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_file')) return false;
      throw error;
    }
  }
}
