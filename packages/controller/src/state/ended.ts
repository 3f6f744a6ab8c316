import { ApiError, type EndReason, type SandboxInfo } from '@forkd/api';
import { unixNow } from '../clock.ts';
import { limits } from '../limits.ts';

/** How a sandbox ended. `error` is what its callers are told. */
export interface Ending {
  reason: EndReason;
  error: ApiError;
  consoleTail?: string;
}

/** The sandboxes that ended lately, so that later requests are told why. Bounded in number and in time. */
export class EndedSandboxes {
  /** Oldest first. */
  readonly #kept: { info: SandboxInfo; error: ApiError }[] = [];

  add(info: SandboxInfo, { reason, error, consoleTail = '' }: Ending): void {
    const ended: SandboxInfo = {
      ...info,
      pid: null,
      state: 'ended',
      ended_at_unix: unixNow(),
      end_reason: reason,
      end_message: error.message,
      ...(consoleTail !== '' && { console_tail: consoleTail }),
    };
    this.#kept.push({ info: ended, error });
    if (this.#kept.length > limits.endedKeptMax) this.#kept.shift();
  }

  list(): SandboxInfo[] {
    this.#forgetOld();
    return this.#kept.map(({ info }) => info);
  }

  /** The error for a request to a sandbox that is not there. A caller who wanted its end hears no more than that. */
  missing(idOrName: string): ApiError {
    this.#forgetOld();
    const found = this.#kept.findLast(({ info }) => info.id === idOrName || info.name === idOrName);
    if (found === undefined) return new ApiError('not_found_sandbox', `There is no sandbox '${idOrName}'.`);
    const { error, info } = found;
    if (info.end_reason === 'killed' || info.end_reason === 'suspended') {
      return new ApiError('not_found_sandbox', error.message);
    }
    return new ApiError('sandbox_ended', error.message, { hint: error.hint });
  }

  #forgetOld(): void {
    const oldest = unixNow() - limits.endedKeptSecs;
    while ((this.#kept[0]?.info.ended_at_unix ?? oldest) < oldest) this.#kept.shift();
  }
}
