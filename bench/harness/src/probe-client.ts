/**
 * Sends a few small requests to a controller all the time, as one caller among others: `probe-client SOCKET SANDBOX`.
 * The parent process sends `begin` and `pause`; the answer to `pause` has all that was measured since.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { ForkdClient } from '@forkd/sdk';

export interface ProbeFigures {
  health_ms: number[];
  exec_ms: number[];
  errors: string[];
}

const HEALTH_EVERY_MS = 50;
const EXEC_EVERY_MS = 250;
const ERRORS_KEPT = 20;

const [socket, sandboxId = ''] = process.argv.slice(2);
const client = new ForkdClient({ socket });
let pause = new AbortController();

process.on('message', (message) => {
  pause.abort();
  if (message !== 'begin') return;
  pause = new AbortController();
  void probe(pause.signal);
});
// End with the parent, because nobody else needs this process.
process.once('disconnect', () => process.exit());
process.send?.('started');

async function probe(until: AbortSignal): Promise<void> {
  const figures: ProbeFigures = { health_ms: [], exec_ms: [], errors: [] };
  const askEvery = async (everyMs: number, times: number[], ask: () => Promise<unknown>): Promise<void> => {
    while (!until.aborted) {
      const startMs = performance.now();
      try {
        await ask();
        times.push(performance.now() - startMs);
      } catch (error) {
        if (figures.errors.length < ERRORS_KEPT) figures.errors.push(String(error));
      }
      await delay(everyMs);
    }
  };
  process.send?.('begun');
  await Promise.all([
    askEvery(HEALTH_EVERY_MS, figures.health_ms, () => client.health()),
    askEvery(EXEC_EVERY_MS, figures.exec_ms, () => client.exec(sandboxId, { args: ['true'] })),
  ]);
  process.send?.(figures);
}
