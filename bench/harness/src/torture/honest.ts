import { ForkdClient, isForkdError } from '@forkd/sdk';
import { forkOne, type TestController } from '@forkd/testing';
import { grouped, type Summary, summarize, timed } from '../statistics.ts';
import type { CurrentWindow, WindowKind } from './windows.ts';

/** Time that one kind of request of honest callers took in one kind of window. */
export interface HonestEntry {
  window: WindowKind;
  request: string;
  ms: Summary;
}

interface Answer {
  window: WindowKind;
  request: string;
  ms: number;
}

type Ask = (client: ForkdClient, id: string, turn: number) => Promise<unknown>;

/** Relative frequency of each request, out of the sum of all weights. */
const REQUESTS: readonly [weight: number, request: string, ask: Ask][] = [
  [6, 'health', (client) => client.health()],
  [4, 'list', (client) => client.listSandboxes()],
  [8, 'exec', (client, id) => client.exec(id, { args: ['true'] })],
  [4, 'write and read a file', writeAndRead],
  [1, 'fork and end', async (client) => client.deleteSandbox(await forkOne(client))],
];
const WEIGHT = REQUESTS.reduce((sum, [weight]) => sum + weight, 0);
const FAILURES_KEPT = 20;

/** Callers that send ordinary requests, each with one under way at a time, and record every latency. */
export class HonestCallers {
  /** Requests that were refused or had no answer while the controller was meant to answer. */
  readonly failures: string[] = [];
  failed = 0;
  /** Requests without an answer because the controller or the pager had just been killed. */
  cutOff = 0;
  readonly #controller: TestController;
  readonly #answers: Answer[] = [];
  readonly #window: CurrentWindow;

  constructor(controller: TestController, window: CurrentWindow) {
    this.#controller = controller;
    this.#window = window;
  }

  /** Sends requests until `signal` fires, with `callers` requests under way at a time, in the sandboxes `ids`. */
  async run(callers: number, ids: readonly string[], signal: AbortSignal): Promise<void> {
    await Promise.all(Array.from({ length: callers }, (_, index) => this.#one(index, ids, signal)));
  }

  summary(): HonestEntry[] {
    return grouped(this.#answers, ({ window, request }) => `${window}/${request}`).map((answers) => ({
      window: answers[0]?.window ?? 'honest alone',
      request: answers[0]?.request ?? '',
      ms: summarize(answers.map(({ ms }) => ms)),
    }));
  }

  async #one(index: number, ids: readonly string[], signal: AbortSignal): Promise<void> {
    const client = new ForkdClient({ socket: this.#controller.socket });
    try {
      for (let turn = index; !signal.aborted; turn += 1) await this.#ask(client, ids[index % ids.length] ?? '', turn);
    } finally {
      await client.close();
    }
  }

  async #ask(client: ForkdClient, id: string, turn: number): Promise<void> {
    const window = this.#window.kind;
    const { request, ask } = requestOf(turn);
    try {
      const { ms } = await timed(() => ask(client, id, turn));
      // A request that two windows share belongs to neither.
      if (window === this.#window.kind) this.#answers.push({ window, request, ms });
    } catch (error) {
      this.#note(window, request, error);
    }
  }

  #note(window: WindowKind, request: string, error: unknown): void {
    if (window === 'kills' || this.#window.kind === 'kills') {
      this.cutOff += 1;
      return;
    }
    this.failed += 1;
    if (this.failures.length < FAILURES_KEPT) {
      const code = isForkdError(error) ? `${error.status ?? 'no answer'} ` : '';
      this.failures.push(`${window}: ${request}: ${code}${String(error)}`);
    }
  }
}

function requestOf(turn: number): { request: string; ask: Ask } {
  let ticket = (turn * 7919) % WEIGHT;
  for (const [weight, request, ask] of REQUESTS) if ((ticket -= weight) < 0) return { request, ask };
  throw new RangeError('the ticket is below the sum of all weights');
}

async function writeAndRead(client: ForkdClient, id: string, turn: number): Promise<void> {
  const path = `/tmp/torture-${turn % 32}`;
  await client.writeFile(id, path, `${turn}`);
  await client.readFile(id, path);
}
