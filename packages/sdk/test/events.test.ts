// Proves that a reader of events misses none and sees none twice, whatever becomes of its connections: a real server that
// keeps the events and is asked with Last-Event-ID, cuts, refuses and starts anew.
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { Events, ForkdClient } from '../src/index.ts';
import { FakeController } from './support/fake-controller.ts';

let fake: FakeController;
let client: ForkdClient;
/** What each connection asked to begin behind. */
let asked: (string | undefined)[];

beforeAll(async () => {
  fake = await FakeController.start();
  client = new ForkdClient({ socket: fake.socket });
});
afterAll(() => fake.stop());
beforeEach(() => {
  fake.overrides.clear();
  asked = [];
});

const event = (n: number) => ({ id: `a-${n}`, type: 'sandbox.created', time_unix_ms: n });

/** Serves `perConnection` events to each connection, of all that there are, and then ends it as `end` says. */
function serve(total: number, perConnection: number, end: 'close' | 'cut'): void {
  fake.overrides.set('GET /v1/events', (request, response) => {
    const after = request.headers['last-event-id'];
    asked.push(after === undefined ? undefined : String(after));
    const first = after === undefined ? 1 : Number(String(after).split('-')[1]) + 1;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write(': here\n\n');
    for (let n = first; n < Math.min(first + perConnection, total + 1); n += 1) {
      response.write(`id: ${event(n).id}\nevent: sandbox.created\ndata: ${JSON.stringify(event(n))}\n\n`);
    }
    if (first + perConnection > total) return;
    // Behind what was written, so that it arrives.
    response.write(':\n\n', () => setTimeout(() => (end === 'close' ? response.end() : response.destroy()), 20));
  });
}

async function read(events: Events, count: number): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of events) {
    ids.push(id);
    if (ids.length === count) break;
  }
  return ids;
}

test.each(['close', 'cut'] as const)('goes on from the last event after each %s', async (end) => {
  serve(7, 3, end);
  const events = new Events({ client });
  expect(await read(events, 7)).toEqual([1, 2, 3, 4, 5, 6, 7].map((n) => `a-${n}`));
  expect(asked).toEqual([undefined, 'a-3', 'a-6']);
  expect(events.lastId).toBe('a-7');
});

test('begins behind the event that it is given, and asks for one sandbox', async () => {
  let url = '';
  serve(9, 9, 'close');
  const serveEvents = fake.overrides.get('GET /v1/events');
  fake.overrides.set('GET /v1/events', (request, response, parsed) => {
    url = request.url ?? '';
    return serveEvents?.(request, response, parsed);
  });
  expect(await read(new Events({ client, after: 'a-5', sandbox: 'sb-1' }), 1)).toEqual(['a-6']);
  expect(url).toBe('/v1/events?sandbox=sb-1');
});

test('waits for a controller that is being started anew', async () => {
  serve(2, 1, 'cut');
  const serveEvents = fake.overrides.get('GET /v1/events');
  let count = 0;
  fake.overrides.set('GET /v1/events', (request, response, parsed) => {
    count += 1;
    if (count === 1 || count > 6) return serveEvents?.(request, response, parsed);
    response.writeHead(503, { 'content-type': 'text/plain' });
    response.end('starting');
  });
  expect(await read(new Events({ client }), 2)).toEqual(['a-1', 'a-2']);
});

test('ends with the error that does not pass, and with the reason of an abort', async () => {
  fake.token = 'correct-horse-battery';
  await expect(read(new Events({ client }), 1)).rejects.toMatchObject({ name: 'AuthenticationError' });
  fake.token = undefined;
  serve(1, 2, 'close');
  const controller = new AbortController();
  const reason = new Error('enough');
  const reading = read(new Events({ client, signal: controller.signal }), 2);
  setTimeout(() => controller.abort(reason), 100);
  await expect(reading).rejects.toBe(reason);
});
