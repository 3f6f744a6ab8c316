import { randomUUID } from 'node:crypto';
import type { CreateSandboxesRequest, SandboxInfo } from '@forkd/api';
import { ForkdError, type ForkdClient } from '@forkd/sdk';
import type { Limits } from './tool.ts';

/** The label of the sandboxes that a server has started. Its value is the id of the server. */
const LABEL = 'mcp-server';

type ForkRequest = Pick<CreateSandboxesRequest, 'snapshot_tag' | 'memory_limit_mib' | 'per_child_netns'>;

/** Starts sandboxes within the limits. Calls that come at once are counted one after the other. */
export class Budget {
  readonly #client: ForkdClient;
  readonly #limits: Limits;
  readonly #id = randomUUID();
  #turn: Promise<unknown> = Promise.resolve();

  constructor(client: ForkdClient, limits: Limits) {
    this.#client = client;
    this.#limits = limits;
  }

  /** Starts `n` sandboxes, all or none. `prepare` makes the request, once it is known that they may be started. */
  start(n: number, signal: AbortSignal, prepare: () => Promise<ForkRequest>): Promise<SandboxInfo[]> {
    const started = this.#turn.then(async () => {
      await this.#refuseTooMany(n, signal);
      const own = { n, labels: { [LABEL]: this.#id }, ttl_secs: this.#limits.ttlSecs };
      return this.#client.createSandboxes({ ...(await prepare()), ...own }, { signal });
    });
    this.#turn = started.catch(() => {});
    return started;
  }

  async #refuseTooMany(n: number, signal: AbortSignal): Promise<void> {
    const { sandboxesMax } = this.#limits;
    const existing = await this.#client.listSandboxes({ signal }, { label: [`${LABEL}=${this.#id}`] });
    if (existing.length + n <= sandboxesMax) return;
    throw new ForkdError(
      'too_many_sandboxes',
      `${n} more would be more than ${sandboxesMax} sandboxes: ${existing.length} exist.`,
      { hint: 'End some with kill_sandbox, or start the server with a higher --max-sandboxes.' },
    );
  }
}
