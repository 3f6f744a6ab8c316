import { ApiError } from '@forkd/api';
import { messageOf } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Sandbox } from '../state/sandbox.ts';
import type { Host } from './host.ts';
import { pause, updateSandbox } from './lifecycle.ts';

type ExpiryHost = Pick<Host, 'registry' | 'workspaces' | 'vmm' | 'branches' | 'events' | 'log'>;

/** Ends or pauses sandboxes whose time to live is over. There is one timer, for the sandbox that is due next. */
export class Expiry {
  readonly #host: ExpiryHost;
  readonly #stopListening: () => void;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(host: ExpiryHost) {
    this.#host = host;
    this.#stopListening = host.events.listen(({ type }) => {
      if (type === 'sandbox.created' || type === 'sandbox.updated') this.#arm();
    });
    this.#arm();
  }

  close(): void {
    this.#closed = true;
    this.#stopListening();
    clearTimeout(this.#timer);
  }

  #arm(): void {
    clearTimeout(this.#timer);
    const next = Math.min(...this.#host.registry.list().map(dueUnixMs));
    if (this.#closed || next === Infinity) return;
    // A timer counts in 31 bits. A sandbox that is due later is looked at again then.
    const delayMs = Math.min(Math.max(next - Date.now(), 0), limits.expiryTimerMsMax);
    this.#timer = setTimeout(() => this.#round(), delayMs).unref();
  }

  #round(): void {
    const { registry, log } = this.#host;
    const due = registry.list().filter((sandbox) => dueUnixMs(sandbox) <= Date.now());
    Promise.all(due.map((sandbox) => this.#expire(sandbox)))
      .catch((error: unknown) => log.error({ err: error }, 'could not note when a sandbox is tried again'))
      .finally(() => this.#arm());
  }

  async #expire(sandbox: Sandbox): Promise<void> {
    const { id, record } = sandbox;
    try {
      if (record.on_expire === 'kill') {
        const error = new ApiError('sandbox_ended', `Sandbox ${id} has reached its time to live.`);
        await this.#host.registry.end(sandbox, { reason: 'expired', error });
        return;
      }
      await pause(this.#host, id);
      await updateSandbox(this.#host, id, { ttl_secs: null });
    } catch (error) {
      this.#host.log.warn(
        { sandbox: id, reason: messageOf(error) },
        'could not end or pause a sandbox whose time is over',
      );
      // A branch of the sandbox may be under way: try again later.
      await this.#host.registry.note(sandbox, {
        expires_at_unix: Math.ceil(Date.now() / 1000) + limits.expiryRetrySecs,
      });
    }
  }
}

function dueUnixMs({ record }: Sandbox): number {
  return record.expires_at_unix === null ? Infinity : record.expires_at_unix * 1000;
}
