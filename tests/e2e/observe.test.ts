/**
 * Proves on real guests what can be observed of a sandbox: events say what happened in order, and a reader who was cut off continues;
 * the console can be read and followed; usage is counted.
 */

import type { ForkdClient } from '@forkd/sdk';
import { forkOne, shell, until } from '@forkd/testing';
import { test } from '@forkd/testing/vitest';
import { expect } from 'vitest';

const WAIT_MS = 30_000;

interface SeenEvent {
  id: string;
  type: string;
}

const LIFE = [
  'sandbox.created',
  'sandbox.paused',
  'sandbox.resumed',
  'snapshot.writing',
  'snapshot.ready',
  'snapshot.durable',
  'sandbox.ended',
  'snapshot.removed',
];

/** Whether an event is about a sandbox or a snapshot. */
function isOfAThing(event: SeenEvent): boolean {
  return 'sandbox' in event || 'snapshot' in event;
}

/** Takes a sandbox through its life, and resolves with all events that a reader has seen meanwhile. */
async function eventsOfALife(client: ForkdClient): Promise<SeenEvent[]> {
  const stop = new AbortController();
  const seen: SeenEvent[] = [];
  const follow = async () => {
    for await (const event of client.events({}, { signal: stop.signal })) seen.push(event);
  };
  const reading = follow().catch(() => undefined);
  // The stream is open once an event of a later action arrives.
  await until('the stream is open', WAIT_MS, async () => {
    await client.deleteSandbox(await forkOne(client));
    return seen.length > 0;
  });
  const id = await forkOne(client);
  await client.pauseSandbox(id);
  await client.resumeSandbox(id);
  await client.branch(id, { tag: 'seen', mode: 'diff' });
  await client.deleteSandbox(id);
  await client.deleteSnapshot('seen');
  await until('the last event', WAIT_MS, async () => seen.findLast(isOfAThing)?.type === 'snapshot.removed');
  stop.abort();
  await reading;
  return seen;
}

test('events tell the life of a sandbox in order', async ({ client }) => {
  const types = (await eventsOfALife(client)).filter(isOfAThing).map(({ type }) => type);
  expect(types.slice(types.lastIndexOf('sandbox.created'))).toEqual(LIFE);
});

test('a reader of events who was cut off continues with the next one', async ({ client }) => {
  const [place, next] = (await eventsOfALife(client)).slice(-3);
  for await (const event of client.events({ after: place?.id ?? '' })) {
    expect(event).toEqual(next);
    break;
  }
});

test('a reader of events with a place of another controller is told of a gap', async ({ client }) => {
  for await (const event of client.events({ after: 'another-7' })) {
    expect(event.type).toBe('events.gap');
    break;
  }
});

test('the console of a sandbox can be read and followed', async ({ client }) => {
  const id = await forkOne(client);
  const text = new TextDecoder();
  let log = '';
  for await (const chunk of client.sandboxLogs(id, { tail_bytes: 1_000_000 })) log += text.decode(chunk);
  const following = (async () => {
    for await (const chunk of client.sandboxLogs(id, { tail_bytes: 0, follow: true })) {
      log += text.decode(chunk);
      if (log.includes('said by a test')) return;
    }
    throw new Error('the stream ended');
  })();
  await until('the line arrives', WAIT_MS, async () => {
    await shell(client, id, 'echo said by a test > /dev/console');
    return log.includes('said by a test');
  });
  await following;
  expect(log).toContain('said by a test');
  await client.deleteSandbox(id);
});

test('the usage of a sandbox is counted', async ({ client }) => {
  const id = await forkOne(client);
  await shell(client, id, 'true');
  const stats = await client.sandboxStats(id);
  expect(stats.exec_count).toBeGreaterThan(0);
  for (const field of ['cpu_secs', 'rss_bytes', 'minor_faults', 'private_bytes', 'shared_bytes'] as const) {
    expect({ [field]: stats[field] }).toEqual({ [field]: expect.toSatisfy((value: number) => value > 0) });
  }
  await client.deleteSandbox(id);
});
