import { limits, type NetworkFlow } from '@forkd/api';
import type { FlowRecord } from '@forkd/engine';
import { raceAbort } from '../deadline.ts';
import { deferred } from '../deferred.ts';

interface FollowOptions {
  /** Only flows of this sandbox. */
  sandbox: string | undefined;
  /** Continue with new flows after those that are kept. */
  follow: boolean;
}

/** The latest flows of all sandboxes. */
export class FlowLog {
  readonly #kept: NetworkFlow[] = [];
  /** The number of flows so far. */
  #count = 0;
  #next = deferred<void>();

  add({ at_ms: timeUnixMs, transport, ms, ...flow }: FlowRecord): void {
    this.#kept.push({ ...flow, time_unix_ms: timeUnixMs, protocol: transport, duration_ms: ms });
    if (this.#kept.length > limits.networkFlowsKeptMax) this.#kept.shift();
    this.#count += 1;
    const { resolve } = this.#next;
    this.#next = deferred<void>();
    resolve();
  }

  /** The flows that are kept, and then new ones until `signal` fires. The next flow tells a slow reader what it has missed. */
  async *read({ sandbox, follow }: FollowOptions, signal: AbortSignal): AsyncGenerator<NetworkFlow> {
    let seen = this.#count - this.#kept.length;
    let missed = 0;
    while (!signal.aborted) {
      const first = this.#count - this.#kept.length;
      missed += Math.max(0, first - seen);
      seen = Math.max(seen, first);
      const flows = this.#kept.slice(seen - first);
      const { promise } = this.#next;
      for (const flow of flows) {
        if (signal.aborted) return;
        seen += 1;
        if (sandbox !== undefined && flow.sandbox !== sandbox) continue;
        yield missed === 0 ? flow : { ...flow, lost: flow.lost + missed };
        missed = 0;
      }
      // More flows may have come while the reader took these.
      if (seen < this.#count) continue;
      if (!follow) return;
      await raceAbort(promise, signal).catch(() => undefined);
    }
  }
}
