// Proves: a reader gets each event once and in order, however slowly it reads; one that comes back goes on where it was, and
// is told when that place is lost.
import { limits } from '@forkd/api';
import { expect, test } from 'vitest';
import { EventLog } from '../src/state/events.ts';

async function take(log: EventLog, count: number, after?: string): Promise<string[]> {
  const stop = new AbortController();
  const types: string[] = [];
  for await (const event of log.follow(after === undefined ? {} : { after }, stop.signal)) {
    types.push(`${event.type} ${event.sandbox ?? ''}`.trim());
    if (types.length === count) stop.abort();
  }
  return types;
}

test('what comes while a reader reads is not lost', async () => {
  const log = new EventLog();
  const reading = take(log, 4);
  await Promise.resolve();
  log.emit('sandbox.created', { sandbox: 'a' });
  log.emit('sandbox.created', { sandbox: 'b' });
  await new Promise(setImmediate);
  log.emit('sandbox.ended', { sandbox: 'a' });
  log.emit('sandbox.ended', { sandbox: 'b' });
  expect(await reading).toEqual(['sandbox.created a', 'sandbox.created b', 'sandbox.ended a', 'sandbox.ended b']);
});

test('a reader that comes back goes on, and is told when its place is lost', async () => {
  const log = new EventLog();
  const ids: string[] = [];
  log.listen(({ id }) => ids.push(id));
  for (let n = 0; n < limits.eventsKeptMax + 10; n += 1) log.emit('sandbox.updated', { sandbox: String(n) });
  expect(await take(log, 2, ids.at(-3))).toEqual(['sandbox.updated 1008', 'sandbox.updated 1009']);
  expect(await take(log, 2, ids[3])).toEqual(['events.gap', 'sandbox.updated 10']);
  expect(await take(log, 1, 'before-5')).toEqual(['events.gap']);
  expect(await take(log, 1, 'nonsense')).toEqual(['events.gap']);
});

test('of one sandbox only', async () => {
  const log = new EventLog();
  const stop = new AbortController();
  const seen: string[] = [];
  const reading = (async () => {
    for await (const event of log.follow({ sandbox: 'b' }, stop.signal)) {
      seen.push(event.type);
      if (event.type === 'sandbox.ended') stop.abort();
    }
  })();
  await Promise.resolve();
  for (const sandbox of ['a', 'b']) log.emit('sandbox.created', { sandbox });
  for (const sandbox of ['a', 'b']) log.emit('sandbox.ended', { sandbox });
  await reading;
  expect(seen).toEqual(['sandbox.created', 'sandbox.ended']);
});
