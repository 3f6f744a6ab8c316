// Proves: a request with a key is carried out once, whether its repetition comes meanwhile, afterwards, or to the next
// controller; one that failed may be tried again; one that was cut off is known as such; damaged files are passed over.
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { raceAbort } from '../src/deadline.ts';
import { deferred } from '../src/deferred.ts';
import { limits } from '../src/limits.ts';
import { Replies } from '../src/state/replies.ts';
import { codeOf, scratch } from './support.ts';

const request = { method: 'POST', url: '/v1/sandboxes', body: { snapshot_tag: 'base' } };
/** A caller who stays. */
const here = new AbortController().signal;
const made = { status: 201, body: [{ id: 'sb-1' }] };

test('the same request has the same reply, and is carried out once', async () => {
  const dir = await scratch();
  const replies = await Replies.open(dir);
  const gate = deferred<void>();
  let runs = 0;
  const run = async () => {
    runs += 1;
    await gate.promise;
    return made;
  };
  const first = replies.answer('key', request, here, run);
  const meanwhile = replies.answer('key', request, here, run);
  expect(await codeOf(replies.answer('key', { ...request, body: {} }, here, run))).toBe('idempotency_conflict');
  gate.resolve();
  expect(await first).toEqual(made);
  expect(await meanwhile).toEqual(made);
  expect(await replies.answer('key', request, here, run)).toEqual(made);
  const next = await Replies.open(dir);
  expect(await next.answer('key', request, here, run)).toEqual(made);
  expect(await codeOf(next.answer('key', { ...request, url: '/v1/snapshots' }, here, run))).toBe(
    'idempotency_conflict',
  );
  expect(runs).toBe(1);
});

test('one that failed is carried out again', async () => {
  const dir = await scratch();
  const replies = await Replies.open(dir);
  const fails = replies.answer('key', request, here, () => Promise.reject(new Error('no memory')));
  await expect(fails).rejects.toThrow('no memory');
  expect(await readdir(dir)).toEqual([]);
  expect(await replies.answer('key', request, here, async () => made)).toEqual(made);
});

test('one that was cut off is known to the next controller, until all that it had begun is undone', async () => {
  const dir = await scratch();
  let name = '';
  const never = deferred<never>();
  const first = await Replies.open(dir);
  void first.answer('key', request, here, async (requestKey) => {
    await first.noteSnapshot(requestKey, 'branch-1');
    name = requestKey;
    return never.promise;
  });
  await expect.poll(() => name).not.toBe('');
  const next = await Replies.open(dir);
  expect(next.wasCutOff(name)).toBe(true);
  expect(next.cutOffSnapshots()).toEqual(['branch-1']);
  await next.forgetCutOff();
  expect(next.wasCutOff(name)).toBe(false);
  expect(await next.answer('key', request, here, async () => made)).toEqual(made);
});

test('keys have a length, and files that are damaged are removed', async () => {
  const dir = await scratch();
  await writeFile(join(dir, 'a'.repeat(64)), '{"format":1,');
  const replies = await Replies.open(dir);
  expect(await readdir(dir)).toEqual([]);
  for (const key of ['', 'x'.repeat(256)]) {
    expect(await codeOf(replies.answer(key, request, here, async () => made))).toBe('bad_request');
  }
});

/** Waits for what comes without timers, which stand still. */
async function happened(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

/** A caller who can be made to leave, and what it was answered. */
function callerOf(replies: Replies, run: Parameters<Replies['answer']>[3]) {
  const gone = new AbortController();
  const answer = replies.answer('key', request, gone.signal, run);
  answer.catch(() => undefined);
  return { answer, leave: () => gone.abort(new Error('the caller has gone away')) };
}

test('a request goes on when its caller leaves, and the retry gets its reply', async () => {
  const replies = await Replies.open(await scratch());
  const gate = deferred<void>();
  let runs = 0;
  const undone = vi.fn<() => Promise<void>>(async () => undefined);
  const run = async (_name: string, signal: AbortSignal) => {
    runs += 1;
    await raceAbort(gate.promise, signal);
    return { ...made, undo: undone };
  };
  const first = callerOf(replies, run);
  await expect.poll(() => runs).toBe(1);
  first.leave();
  await expect(first.answer).rejects.toThrow('gone away');
  // While it is under way, and once it is done but nobody has been told.
  const second = callerOf(replies, run);
  second.leave();
  gate.resolve();
  await new Promise((resolve) => setImmediate(resolve));
  const third = callerOf(replies, run);
  expect(await third.answer).toEqual(made);
  expect([runs, undone.mock.calls.length]).toEqual([1, 0]);
});

test('what nobody comes back for is undone, and a retry after that waits for it and begins anew', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
  const replies = await Replies.open(await scratch());
  const undoing = deferred<void>();
  const steps: string[] = [];
  const run = async () => {
    steps.push('made');
    return {
      ...made,
      undo: async () => {
        steps.push('undoing');
        await undoing.promise;
        steps.push('undone');
      },
    };
  };
  const first = callerOf(replies, run);
  first.leave();
  await happened(() => steps.length === 1);
  await vi.advanceTimersByTimeAsync(limits.retryWaitMs - 1);
  expect(steps).toEqual(['made']);
  await vi.advanceTimersByTimeAsync(1);
  await happened(() => steps.length === 2);
  const second = callerOf(replies, run);
  undoing.resolve();
  expect(await second.answer).toEqual(made);
  expect(steps).toEqual(['made', 'undoing', 'undone', 'made']);
});

test('work that nobody waits for is told to stop, and the end of the controller does not wait for callers', async () => {
  const dir = await scratch();
  const replies = await Replies.open(dir);
  const begun = deferred<void>();
  const first = callerOf(replies, async (_name, signal) => {
    begun.resolve();
    await raceAbort(deferred<never>().promise, signal);
    return made;
  });
  await begun.promise;
  first.leave();
  await replies.close();
  expect(await readdir(dir)).toEqual([]);
});

test('only so many replies are kept, and the oldest go first', async () => {
  const replies = await Replies.open(await scratch());
  const body = 'x'.repeat(limits.repliesBytesMax / 4);
  let runs = 0;
  const ask = (key: string) =>
    replies.answer(key, request, here, async () => {
      runs += 1;
      return { status: 201, body };
    });
  for (const key of ['a', 'b', 'c', 'd', 'e']) await ask(key);
  await ask('e');
  expect(runs).toBe(5);
  await ask('a');
  expect(runs).toBe(6);
});
