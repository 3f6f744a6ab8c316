import { ApiError } from '@forkd/api';
import { limits } from '../limits.ts';
import type { Sandbox } from '../state/sandbox.ts';

/**
 * Stops the programs of a sandbox while it is branched with `safety: strict`: in the source until {@link end}, in children
 * until they have an identity. If `end` is never called, the programs continue by themselves, and the branch fails.
 */
export class StandStill {
  readonly #sandbox: Sandbox;
  #ended: Promise<void> | undefined;

  private constructor(sandbox: Sandbox) {
    this.#sandbox = sandbox;
  }

  /** Throws `unsupported` with the reason if the guest cannot stop its programs. */
  static async begin(sandbox: Sandbox, signal: AbortSignal): Promise<StandStill> {
    const timeoutMs = limits.guestRequestTimeoutMs;
    const standStill = new StandStill(sandbox);
    try {
      await sandbox.guest.call((agent) => agent.freeze({ timeoutMs, signal }), { signal });
    } catch (error) {
      // The guest may have frozen its programs although the answer was lost.
      await standStill.#thaw().catch(() => undefined);
      throw error;
    }
    return standStill;
  }

  /** Lets the programs run, once the source does. Rejects if they ran before, perhaps before the instant. Idempotent. */
  end(): Promise<void> {
    this.#ended ??= this.#end();
    this.#ended.catch(() => undefined);
    return this.#ended;
  }

  async #end(): Promise<void> {
    if (await this.#thaw()) return;
    throw new ApiError('branch_failed', 'Its programs did not stand still until the instant: it took too long.');
  }

  #thaw(): Promise<boolean> {
    const { guest, ended } = this.#sandbox;
    const options = { timeoutMs: limits.guestRequestTimeoutMs, signal: ended.signal };
    return guest.call((agent) => agent.thaw(options), { signal: ended.signal });
  }
}

/** Refuses a strict branch of a sandbox that is paused, or whose guest could not tell a child from its source. */
export function assertCanStandStill({ id, record }: Sandbox): void {
  const asked = `Branch of sandbox ${id}: safety 'strict' cannot be had`;
  if (record.paused) throw new ApiError('sandbox_paused', `${asked}: it is paused.`);
  const { entries = [], unavailable = 'an earlier version made its snapshot' } = record.refresh ?? {};
  if (unavailable !== null || !entries.some(({ op }) => op === 'page')) {
    const why = unavailable ?? 'its guest has no generation page';
    throw new ApiError('unsupported', `${asked}: ${why}.`, { hint: 'Build its template again.' });
  }
}
