// Proves: however a body is cut into chunks, the events that come out are those that went in; and what is cut off or
// broken is said, with its code. fast-check prints the seed of a failure.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseNdjson } from '../src/index.ts';

async function parse(chunks: Iterable<Uint8Array>): Promise<unknown[]> {
  async function* source() {
    yield* chunks;
  }
  const events: unknown[] = [];
  for await (const event of parseNdjson(source())) events.push(event);
  return events;
}

function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const sorted = places.map((place) => place % (bytes.length + 1)).toSorted((one, other) => one - other);
  return [0, ...sorted].map((start, index) => bytes.subarray(start, sorted[index] ?? bytes.length));
}

const anyEvent = fc.record({
  type: fc.string({ unit: 'grapheme' }),
  offset: fc.nat(),
  data: fc.string({ unit: 'binary' }),
});

describe('parseNdjson', () => {
  test('gives the same events for every way of cutting them up', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(anyEvent, { maxLength: 8 }),
        fc.array(fc.nat(), { maxLength: 40 }),
        fc.constantFrom('\n', '\r\n', '\n\n'),
        fc.boolean(),
        async (events, places, separator, endsWithNewline) => {
          const text = events.map((event) => JSON.stringify(event)).join(separator) + (endsWithNewline ? '\n' : '');
          expect(await parse(cut(Buffer.from(text), places))).toEqual(JSON.parse(JSON.stringify(events)));
        },
      ),
    );
  });

  test('never passes off a cut event as a whole one', async () => {
    await fc.assert(
      fc.asyncProperty(anyEvent, fc.nat(), async (event, place) => {
        const bytes = Buffer.from(JSON.stringify(event));
        const kept = bytes.subarray(0, 1 + (place % (bytes.length - 1)));
        await expect(parse([kept])).rejects.toMatchObject({ code: 'stream_cut' });
      }),
    );
  });

  test('refuses what is not JSON, and a line without end', async () => {
    await expect(parse([Buffer.from('{"a":1}\nnonsense\n')])).rejects.toMatchObject({ code: 'bad_response' });
    const chunk = Buffer.alloc(1024 * 1024, 0x20);
    await expect(parse(Array.from({ length: 6 }, () => chunk))).rejects.toMatchObject({ code: 'bad_response' });
  });
});
