import { createHash } from 'node:crypto';
import { readdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf } from '@forkd/store';
import { lockFile } from './file-lock.ts';

/** The pagers that have a store open. Each holds the lock of a file in the store as long as it lives. */
export class StorePagers {
  readonly #launcher: string;
  readonly #dir: string;
  readonly #own: string;

  private constructor(launcher: string, dir: string, own: string) {
    this.#launcher = launcher;
    this.#dir = dir;
    this.#own = own;
  }

  /** `run` is the directory of this controller's own pager. The digest of its path names the lock file. */
  static async of(launcher: string, { store, run }: { store: string; run: string }): Promise<StorePagers> {
    const name = createHash('sha256')
      .update(await realpath(run))
      .digest('hex');
    return new StorePagers(launcher, join(store, 'pagers'), `${name}.lock`);
  }

  /** True if any pager may be writing into the store. */
  async anyLives(): Promise<boolean> {
    return (await this.#living()).length > 0;
  }

  /** True if a pager of another data directory may be writing. Its sandboxes are unknown here. */
  async othersLive(): Promise<boolean> {
    return (await this.#living()).some((name) => name !== this.#own);
  }

  async #living(): Promise<string[]> {
    const living: string[] = [];
    for (const name of await readdir(this.#dir).catch(noneThere)) {
      const lock = await lockFile(this.#launcher, join(this.#dir, name));
      if (lock === null) living.push(name);
      else await lock.close();
    }
    return living;
  }
}

function noneThere(error: unknown): string[] {
  if (errnoOf(error) === 'ENOENT') return [];
  throw error;
}
