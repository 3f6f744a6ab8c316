import { ForkdClient } from '@forkd/sdk';
import { forkOne, installedStorm, type TestController } from '@forkd/testing';
import { Audits } from './audits.ts';
import type { CurrentWindow } from './windows.ts';

const STORM_MIB = 32;

/** Sandboxes of a controller that rewrite their memory all the time. Each is branched live again and again, always audited. */
export class AuditedSandboxes {
  readonly audits = new Audits();
  readonly #controller: TestController;
  readonly #ids: readonly string[];
  readonly #window: CurrentWindow;

  private constructor(controller: TestController, ids: readonly string[], window: CurrentWindow) {
    this.#controller = controller;
    this.#ids = ids;
    this.#window = window;
  }

  static async start(controller: TestController, count: number, window: CurrentWindow): Promise<AuditedSandboxes> {
    const ids = await Promise.all(Array.from({ length: count }, () => forkOne(controller.client)));
    for (const id of ids) await installedStorm(controller.client, id, STORM_MIB);
    return new AuditedSandboxes(controller, ids, window);
  }

  async run(signal: AbortSignal): Promise<void> {
    await Promise.all(
      this.#ids.map(async (id) => {
        const client = new ForkdClient({ socket: this.#controller.socket });
        try {
          while (!signal.aborted) await this.#branch(client, id, signal);
        } finally {
          await client.close();
        }
      }),
    );
  }

  async #branch(client: ForkdClient, id: string, signal: AbortSignal): Promise<void> {
    const before = this.#window.kind;
    try {
      const { tag, pause_us, audited_pages, differing_pages } = await client.branch(
        id,
        { mode: 'live', audit: true },
        { signal },
      );
      const audit =
        audited_pages === undefined ? null : { checked_pages: audited_pages, differing_pages: differing_pages ?? 0 };
      this.audits.branch(before, audit, pause_us ?? 0);
      await client.deleteSnapshot(tag);
    } catch (error) {
      if (!signal.aborted) this.audits.failure(before, error, [before, this.#window.kind].includes('kills'));
    }
  }
}
