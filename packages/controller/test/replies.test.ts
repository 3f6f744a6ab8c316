// Proves: a request with a key is carried out once, whether its repetition comes meanwhile, afterwards, or to the next
// controller; one that failed may be tried again; one that was cut off is known as such; damaged files are passed over.
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { deferred } from '../src/deferred.ts';
import { Replies } from '../src/replies.ts';
import { codeOf, scratch } from './support.ts';

const request = { method: 'POST', url: '/v1/sandboxes', body: { snapshot_tag: 'base' } };
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
  const first = replies.answer('key', request, run);
  const meanwhile = replies.answer('key', request, run);
  expect(await codeOf(replies.answer('key', { ...request, body: {} }, run))).toBe('idempotency_conflict');
  gate.resolve();
  expect(await first).toEqual(made);
  expect(await meanwhile).toEqual(made);
  expect(await replies.answer('key', request, run)).toEqual(made);
  const next = await Replies.open(dir);
  expect(await next.answer('key', request, run)).toEqual(made);
  expect(await codeOf(next.answer('key', { ...request, url: '/v1/snapshots' }, run))).toBe('idempotency_conflict');
  expect(runs).toBe(1);
});

test('one that failed is carried out again', async () => {
  const dir = await scratch();
  const replies = await Replies.open(dir);
  const fails = replies.answer('key', request, () => Promise.reject(new Error('no memory')));
  await expect(fails).rejects.toThrow('no memory');
  expect(await readdir(dir)).toEqual([]);
  expect(await replies.answer('key', request, async () => made)).toEqual(made);
});

test('one that was cut off is known to the next controller, until all that it had begun is undone', async () => {
  const dir = await scratch();
  let name = '';
  const never = deferred<never>();
  const first = await Replies.open(dir);
  void first.answer('key', request, async (requestKey) => {
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
  expect(await next.answer('key', request, async () => made)).toEqual(made);
});

test('keys have a length, and files that are damaged are removed', async () => {
  const dir = await scratch();
  await writeFile(join(dir, 'a'.repeat(64)), '{"format":1,');
  const replies = await Replies.open(dir);
  expect(await readdir(dir)).toEqual([]);
  for (const key of ['', 'x'.repeat(256)]) {
    expect(await codeOf(replies.answer(key, request, async () => made))).toBe('bad_request');
  }
});
