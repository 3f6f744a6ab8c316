import { ApiError } from '@forkd/api';
import type { Logger } from 'pino';

import { messageOf } from '../errors.ts';
import type { EventLog } from '../events.ts';
import { limits } from '../limits.ts';
import type { Lifecycle } from './lifecycle.ts';
import type { Registry } from './registry.ts';
import type { Sandbox } from './sandbox.ts';

/** Ends or pauses sandboxes whose time is over: one timer, for the one that is due next. */
export class Expiry {
  readonly #registry: Registry;
  readonly #lifecycle: Lifecycle;
  readonly #log: Logger;
  readonly #stopListening: () => void;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(parts: { registry: Registry; lifecycle: Lifecycle; events: EventLog; log: Logger }) {
    this.#registry = parts.registry;
    this.#lifecycle = parts.lifecycle;
    this.#log = parts.log;
    this.#stopListening = parts.events.listen(({ type }) => {
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
    const next = Math.min(...this.#registry.list().map(dueUnixMs));
    if (this.#closed || next === Infinity) return;
    // A timer counts in 31 bits; whoever is due later than that is looked at again then.
    const delayMs = Math.min(Math.max(next - Date.now(), 0), limits.expiryTimerMsMax);
    this.#timer = setTimeout(() => void this.#round(), delayMs).unref();
  }

  async #round(): Promise<void> {
    const due = this.#registry.list().filter((sandbox) => dueUnixMs(sandbox) <= Date.now());
    await Promise.all(due.map((sandbox) => this.#expire(sandbox)));
    this.#arm();
  }

  async #expire(sandbox: Sandbox): Promise<void> {
    const { id, record } = sandbox;
    try {
      if (record.on_expire === 'kill') {
        await this.#registry.end(
          sandbox,
          new ApiError('not_found_sandbox', `Sandbox ${id} has reached its time to live.`),
        );
        return;
      }
      await this.#lifecycle.pause(id);
      await this.#lifecycle.update(id, { ttl_secs: null });
    } catch (error) {
      this.#log.warn({ sandbox: id, reason: messageOf(error) }, 'could not end or pause a sandbox whose time is over');
      // A branch of it may be under way: it is tried again.
      await this.#registry.note(sandbox, { expires_at_unix: Math.ceil(Date.now() / 1000) + limits.expiryRetrySecs });
    }
  }
}

function dueUnixMs({ record }: Sandbox): number {
  return record.expires_at_unix === null ? Infinity : record.expires_at_unix * 1000;
}
