/** Proves that a long reply is the same JSON as a short one, whatever its bytes, and that the memory of such replies has a bound. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { JsonList, LargeReply } from '../src/large-reply.ts';
import { limits } from '../src/limits.ts';
import { BytePool } from '../src/state/byte-pool.ts';

const never = new AbortController().signal;
const bounds = { bytesMax: 100, shareBytes: 40, freeBytes: 10, waitMs: 20_000 };

async function textOf(reply: LargeReply): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of reply.json()) pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces).toString();
}

test('a long reply says what a short one would, for any bytes and text', async () => {
  const long = fc.tuple(fc.uint8Array({ maxLength: 40 }), fc.integer({ min: 1, max: 9000 }));
  await fc.assert(
    fc.asyncProperty(long, fc.string({ unit: 'binary' }), async ([seed, times], text) => {
      const bytes = Buffer.concat(Array.from({ length: times }, () => Buffer.from(seed)));
      const reply = LargeReply.withTexts({ exit_code: 3, truncated: true }, { stdout: bytes, result: text }, () => {});
      expect(JSON.parse(await textOf(reply))).toEqual({
        stdout: new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes),
        result: Buffer.from(text).toString(),
        exit_code: 3,
        truncated: true,
      });
    }),
    { numRuns: 100 },
  );
});

test('no piece of a long reply is long, where each byte takes six', async () => {
  const reply = LargeReply.withTexts({}, { stdout: Buffer.alloc(1024 * 1024) }, () => {});
  for await (const piece of reply.json()) expect(piece.length).toBeLessThanOrEqual(6 * limits.replyPieceBytes);
});

test('a list is the JSON of its items', async () => {
  for (const count of [0, 1, 2, 50_000]) {
    const list = new JsonList();
    const items = Array.from({ length: count }, (_, index) => ({ name: `file ${index}`, size: index }));
    for (const item of items) list.add(item);
    expect(JSON.parse(await textOf(LargeReply.ofJson(list.end(), () => {})))).toEqual(items);
  }
});

test('a call that stays small takes nothing of the pool, others take a share at once and wait for it in turn', async () => {
  const pool = new BytePool(bounds);
  const [small, one, two, three, four] = Array.from({ length: 5 }, () => pool.share(never));
  await small!.hold(10);
  expect(pool.usedBytes).toBe(0);
  await Promise.all([one!.hold(11), two!.hold(30), two!.hold(40)]);
  expect(pool.usedBytes).toBe(80);
  const order: string[] = [];
  const third = three!.hold(20).then(() => order.push('three'));
  const fourth = four!.hold(20).then(() => order.push('four'));
  one!.keep(20);
  await third;
  two!.release();
  await fourth;
  expect(order).toEqual(['three', 'four']);
  for (const share of [one, three, four]) share!.release();
  expect(pool.usedBytes).toBe(0);
});

test('a call for which there is no room in time is told so, and one that is given up takes none', async () => {
  const pool = new BytePool({ ...bounds, bytesMax: 40, waitMs: 20 });
  const held = pool.share(never);
  await held.hold(20);
  await expect(pool.share(never).hold(20)).rejects.toMatchObject({ code: 'output_budget', status: 503 });
  const gone = new AbortController();
  const left = pool.share(gone.signal);
  const waiting = left.hold(20);
  gone.abort(new Error('the caller has gone'));
  await expect(waiting).rejects.toThrow('the caller has gone');
  left.release();
  held.release();
  await pool.share(never).hold(20);
  expect(pool.usedBytes).toBe(40);
});
