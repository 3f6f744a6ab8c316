/**
 * Sends requests to sandboxes with malicious agents: `agent-client SOCKET SANDBOX…`. Its parent sends `begin` and `pause`; the
 * answer to `pause` counts each request. The next request follows whatever becomes of the last one.
 */
import { anySignal } from '@forkd/engine';
import { type CallOptions, ForkdClient } from '@forkd/sdk';

/** Number of times that each request was made. */
export type AgentFigures = Record<string, number>;

const ANSWER_MS_MAX = 20_000;

const [socket = '', ...ids] = process.argv.slice(2);
const client = new ForkdClient({ socket });
let pause = new AbortController();

const requests: Record<string, (id: string, options: CallOptions) => Promise<unknown>> = {
  ping: (id, options) => client.ping(id, options),
  exec: (id, options) => client.exec(id, { args: ['true'], timeout_secs: 5 }, options),
  'list a directory': (id, options) => client.listDir(id, '/', options),
  'read a file': (id, options) => client.readFile(id, '/etc/hostname', options),
};

process.on('message', (message) => {
  pause.abort();
  if (message !== 'begin') return;
  pause = new AbortController();
  void askAll(pause.signal);
});
// End with the parent, because nobody else needs this process.
process.once('disconnect', () => process.exit());
process.send?.('started');

async function askAll(until: AbortSignal): Promise<void> {
  const figures: AgentFigures = {};
  process.send?.('begun');
  await Promise.all(ids.map((id) => askOnAndOn(id, figures, until)));
  process.send?.(figures);
}

async function askOnAndOn(id: string, figures: AgentFigures, until: AbortSignal): Promise<void> {
  const all = Object.entries(requests);
  for (let turn = 0; !until.aborted; turn += 1) {
    const [name, ask] = all[turn % all.length] ?? ['', async () => undefined];
    await ask(id, { signal: anySignal(until, AbortSignal.timeout(ANSWER_MS_MAX)) }).catch(() => undefined);
    figures[name] = (figures[name] ?? 0) + 1;
  }
}
