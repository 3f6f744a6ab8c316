import { ApiError, type EndReason, type SandboxInfo } from '@forkd/api';
import type { Logger } from 'pino';
import { unixNow } from '../clock.ts';
import { messageOf } from '../errors.ts';
import { limits } from '../limits.ts';
import { type EndedRecord, readEnded, removeEnded, writeEnded } from './ended-record.ts';

/** How a sandbox ended. `error` is what its callers are told. */
export interface Ending {
  reason: EndReason;
  error: ApiError;
  consoleTail?: string;
}

/**
 * The sandboxes that ended lately, so that later requests are told why, even by the next controller of this data directory.
 * Bounded in number and in time.
 */
export class EndedSandboxes {
  readonly #dir: string;
  readonly #log: Logger;
  /** The records by id, oldest first. */
  readonly #kept = new Map<string, EndedRecord>();
  /** The number of the latest. */
  #number = 0;

  private constructor(dir: string, log: Logger) {
    this.#dir = dir;
    this.#log = log;
  }

  /** Reads what earlier controllers kept. What cannot be read is logged and forgotten: no sandbox depends on it. */
  static async open(dir: string, log: Logger): Promise<EndedSandboxes> {
    const ended = new EndedSandboxes(dir, log);
    try {
      const { records, unreadable } = await readEnded(dir);
      for (const file of unreadable) log.warn({ file, dir }, 'forgot an ended sandbox, whose file cannot be read');
      for (const record of records) ended.#kept.set(record.sandbox.id, record);
      ended.#number = records.at(-1)?.number ?? 0;
    } catch (error) {
      log.error({ dir, reason: messageOf(error) }, 'the sandboxes that ended before cannot be read');
    }
    await ended.#forgetOld();
    return ended;
  }

  has(id: string): boolean {
    return this.#kept.has(id);
  }

  /** Keeps a sandbox: in memory at once, on disk when this resolves. A file that cannot be written is logged. */
  async add(info: SandboxInfo, { reason, error, consoleTail = '' }: Ending): Promise<void> {
    const { id } = info;
    this.#number += 1;
    const record: EndedRecord = {
      format: 1,
      number: this.#number,
      sandbox: {
        ...info,
        pid: null,
        state: 'ended',
        ended_at_unix: unixNow(),
        end_reason: reason,
        end_message: error.message,
        ...(consoleTail !== '' && { console_tail: consoleTail }),
      },
      hint: error.hint,
    };
    this.#kept.set(id, record);
    await this.#forgetOld();
    try {
      await writeEnded(this.#dir, record);
      // The record may have become one too many while it was written.
      if (!this.#kept.has(id)) await removeEnded(this.#dir, id);
    } catch (cause) {
      this.#log.error({ sandbox: id, reason: messageOf(cause) }, 'the end of a sandbox is not on disk');
    }
  }

  list(): SandboxInfo[] {
    return [...this.#kept.values()].filter((record) => !isOld(record)).map(({ sandbox }) => sandbox);
  }

  /** The error for a request to a sandbox that is not there. A caller who wanted its end hears no more than that. */
  missing(idOrName: string): ApiError {
    const found = [...this.#kept.values()].findLast(({ sandbox }) => {
      return sandbox.id === idOrName || sandbox.name === idOrName;
    });
    if (found === undefined || isOld(found)) {
      return new ApiError('not_found_sandbox', `There is no sandbox '${idOrName}'.`);
    }
    const { sandbox, hint } = found;
    if (sandbox.end_reason === 'killed' || sandbox.end_reason === 'suspended') {
      return new ApiError('not_found_sandbox', sandbox.end_message);
    }
    return new ApiError('sandbox_ended', sandbox.end_message, { hint });
  }

  async #forgetOld(): Promise<void> {
    for (const [id, record] of this.#kept) {
      if (this.#kept.size <= limits.endedKeptMax && !isOld(record)) return;
      this.#kept.delete(id);
      await removeEnded(this.#dir, id).catch((error: unknown) => {
        this.#log.warn({ sandbox: id, reason: messageOf(error) }, 'could not forget an ended sandbox');
      });
    }
  }
}

function isOld({ sandbox }: EndedRecord): boolean {
  return sandbox.ended_at_unix < unixNow() - limits.endedKeptSecs;
}
