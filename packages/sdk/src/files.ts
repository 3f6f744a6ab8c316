import type { DirEntry, FileChangeEvent, FileStat } from '@forkd/api';
import { textOf } from './bytes.ts';
import type { ForkdClient, NewFileQuery } from './client.ts';
import { errorFromEvent, ForkdError, isForkdError } from './errors.ts';
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

  /** Reads a file as UTF-8 text. */
  async read(path: string, options: RequestOptions = {}): Promise<string> {
    return textOf(await this.readBytes(path, options));
  }

  readBytes(path: string, options: RequestOptions = {}): Promise<Uint8Array> {
    return this.#client.readFile(this.#sandboxId, path, callOptions(options));
  }

  /** Streams a file of any size in chunks. */
  readStream(path: string, options: RequestOptions = {}): AsyncGenerator<Uint8Array> {
    return this.#client.readFileStream(this.#sandboxId, path, callOptions(options));
  }

  /**
   * Writes a file. Missing parent directories are created, existing content is replaced. `mode` is octal; default
   * `0644`. `user` owns what is new; default root.
   */
  write(path: string, data: RequestBody, options: NewFileOptions = {}): Promise<void> {
    const query = newFileQuery(options);
    return this.#client.writeFile(this.#sandboxId, path, data, query, callOptions(options));
  }

  /** Lists a directory: `name`, `type`, `size` in bytes, `mode` in octal, `mtime_unix` in seconds. */
  list(path: string, options: RequestOptions = {}): Promise<DirEntry[]> {
    return this.#client.listDir(this.#sandboxId, path, callOptions(options));
  }

  /**
   * Describes what is at a path: the fields of {@link list}, `uid`, `gid`, and the `target` of a symbolic link. With `follow`
   * what is behind links.
   */
  stat(path: string, options: RequestOptions & { follow?: boolean | undefined } = {}): Promise<FileStat> {
    const query = options.follow === undefined ? {} : { follow: options.follow };
    return this.#client.statFile(this.#sandboxId, path, query, callOptions(options));
  }

  /** Makes a directory and those that lead to it, unless it exists. `mode` is octal; default `0755`. `user` owns what is new. */
  makeDir(path: string, options: NewFileOptions = {}): Promise<void> {
    const query = newFileQuery(options);
    return this.#client.makeDir(this.#sandboxId, path, query, callOptions(options));
  }

  /** Renames a file or a directory. A file at the new path is replaced. */
  rename(from: string, to: string, options: RequestOptions = {}): Promise<void> {
    return this.#client.renameFile(this.#sandboxId, from, to, callOptions(options));
  }

  /**
   * Watches a file or a directory; with `recursive` also what is below it. The first event is `ready`: what happens after it
   * is reported. The loop ends when the path itself is removed or renamed, and the watch ends with the loop. An event
   * `overflow` reports that others are lost: list the directory again. Rejects if the guest cannot be watched any more.
   */
  async *watch(
    path: string,
    options: { recursive?: boolean | undefined; signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<FileChangeEvent> {
    const query = options.recursive === undefined ? {} : { recursive: options.recursive };
    let last: FileChangeEvent | undefined;
    for await (const event of this.#client.watchFiles(this.#sandboxId, path, query, callOptions(options))) {
      if (event.type === 'error') throw errorFromEvent(event);
      last = event;
      yield event;
    }
    if (last?.type !== 'remove') throw new ForkdError('stream_cut', `Watch of ${path}: the stream was cut off.`);
  }

  /** True if the path exists, as a file or a directory. */
  async exists(path: string, options: RequestOptions = {}): Promise<boolean> {
    try {
      await this.stat(path, { ...options, follow: true });
      return true;
    } catch (error) {
      if (isForkdError(error, 'not_found_file') || isForkdError(error, 'not_a_directory')) return false;
      throw error;
    }
  }

  /** Removes a file or a directory. False if it did not exist. A directory that is not empty needs `recursive`. */
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

/** How a new file or directory is made. */
type NewFileOptions = RequestOptions & { mode?: string | undefined; user?: string | undefined };

function newFileQuery({ mode, user }: NewFileOptions): NewFileQuery {
  return { ...(mode !== undefined && { mode }), ...(user !== undefined && { user }) };
}
