/**
 * Sends requests to a controller while a sandbox is branched: `load-client SOCKET SANDBOX REQUESTS_PER_S`. Its parent sends
 * `begin` and `pause`; the answer to `pause` has all that was measured since.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { ForkdClient } from '@forkd/sdk';

export interface LoadFigures {
  /** Latencies, with one entry per request that was answered correctly, from the time it was sent. */
  answers_ms: number[];
  errors: number;
  elapsed_ms: number;
}

const TICK_MS = 2;

const [socket, sandboxId = '', rate] = process.argv.slice(2);
const client = new ForkdClient({ socket });
const requests = [
  () => client.health(),
  () => client.listSandboxes(),
  () => client.getSandbox(sandboxId),
  () => client.listSnapshots(),
];
let pause = new AbortController();

process.on('message', (message) => {
  pause.abort();
  if (message !== 'begin') return;
  pause = new AbortController();
  void makeRequests(Number(rate), pause.signal);
});
// End with the parent, because nobody else needs this process.
process.once('disconnect', () => process.exit());
process.send?.('started');

/** Sends every request when it is due, however many are still unanswered. */
async function makeRequests(perSecond: number, until: AbortSignal): Promise<void> {
  const figures: LoadFigures = { answers_ms: [], errors: 0, elapsed_ms: 0 };
  const underWay = new Set<Promise<void>>();
  const startMs = performance.now();
  let sent = 0;
  process.send?.('begun');
  while (!until.aborted) {
    for (const due = ((performance.now() - startMs) / 1e3) * perSecond; sent < due; sent += 1) {
      const request = makeRequest(sent, figures).finally(() => underWay.delete(request));
      underWay.add(request);
    }
    await delay(TICK_MS);
  }
  await Promise.all(underWay);
  figures.elapsed_ms = performance.now() - startMs;
  process.send?.(figures);
}

async function makeRequest(index: number, figures: LoadFigures): Promise<void> {
  const startMs = performance.now();
  try {
    await requests[index % requests.length]?.();
    figures.answers_ms.push(performance.now() - startMs);
  } catch {
    figures.errors += 1;
  }
}
