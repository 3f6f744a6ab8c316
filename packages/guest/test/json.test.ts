/** Proves that JSON in pieces is read as `JSON.parse` reads it, whatever the pieces, and that nothing in it grows past its bounds. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { JsonReader, parseJson } from '../src/json.ts';
import { JSON_DEPTH_MAX, JSON_PIECE_BYTES } from '../src/limits.ts';

const shallow = fc.json({ maxDepth: JSON_DEPTH_MAX - 1 });

/** The text in pieces, cut at these places. */
function pieces(text: string, cuts: readonly number[]): string[] {
  const places = [...new Set(cuts.map((cut) => (text.length === 0 ? 0 : cut % text.length)))].toSorted((a, b) => a - b);
  return [0, ...places].map((from, index) => text.slice(from, places[index] ?? text.length));
}

function read(parts: readonly string[]): unknown {
  const reader = new JsonReader();
  for (const part of parts) reader.push(part);
  return reader.end();
}

test('JSON in any pieces is parsed as JSON.parse does', () => {
  fc.assert(
    fc.property(shallow, fc.array(fc.nat(), { maxLength: 20 }), (text, cuts) => {
      expect(read(pieces(text, cuts))).toEqual(JSON.parse(text));
    }),
    { numRuns: 500 },
  );
});

test('escapes, surrogates and multi-byte characters may be split anywhere', () => {
  const text = JSON.stringify({ 'k\n"\\': '\u0000\ud83d\ude00é\u2028/', list: [-1.5e-3, true, null, '', {}] });
  const escaped = text.replace('é', String.raw`\u00e9\ud83d\ude00`);
  for (let cut = 0; cut < escaped.length; cut += 1) {
    expect(read([escaped.slice(0, cut), escaped.slice(cut)])).toEqual(JSON.parse(escaped));
  }
});

test('text that JSON.parse refuses is refused', () => {
  fc.assert(
    fc.property(
      shallow,
      fc.nat(),
      fc.constantFrom('', '"', '\\', ',', ':', ']', '}', '[', '{', 'x', '\u0001', '0'),
      (text, at, change) => {
        const place = at % (text.length + 1);
        const changed = text.slice(0, place) + change + text.slice(place + 1);
        let value: unknown;
        try {
          value = JSON.parse(changed);
        } catch {
          expect(() => read([changed])).toThrow(/no JSON|too deep/);
          return;
        }
        expect(read([changed])).toEqual(value);
      },
    ),
    { numRuns: 1000 },
  );
});

test('items of a listing are passed on and not kept', () => {
  const items: unknown[] = [];
  const reader = new JsonReader((item) => void items.push(item));
  for (const part of ['[{"a":', '[1,2]},', '3', ', "x"]']) reader.push(part);
  expect(reader.end()).toEqual([]);
  expect(items).toEqual([{ a: [1, 2] }, 3, 'x']);
});

test('depth, length and the number of values are bounded', async () => {
  expect(() => read(['['.repeat(JSON_DEPTH_MAX + 1)])).toThrow('nested too deep');
  expect(() => read(['9'.repeat(1000)])).toThrow('no JSON');
  expect(() => read([`[${'0,'.repeat(1_000_001)}0]`])).toThrow('too many values');
  async function* chunks() {
    for (;;) yield Buffer.alloc(JSON_PIECE_BYTES, ' ');
  }
  await expect(parseJson(chunks(), 1024 * 1024)).rejects.toMatchObject({ code: 'bad_response' });
});

test('a text of 16 MiB takes many turns of the event loop, each for one piece', async () => {
  const text = Buffer.from(JSON.stringify('\u0001'.repeat(3 * 1024 * 1024)));
  async function* chunks() {
    yield text;
  }
  let turns = 0;
  const count = (): void => {
    turns += 1;
    timer = setImmediate(count);
  };
  let timer = setImmediate(count);
  const value = await parseJson(chunks(), text.length);
  clearImmediate(timer);
  expect(String(value).length).toBe(3 * 1024 * 1024);
  expect(turns).toBeGreaterThan(text.length / JSON_PIECE_BYTES / 2);
});
