// Proves that what a guest says cannot make a terminal do anything, wherever it is not the output of a command.
import { PassThrough } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { Output, type Streams } from '../src/output/output.ts';
import { visibleChunks } from '../src/output/visible-chunks.ts';

const hostile = 'a\u001b[2J\u001b]0;owned\u0007\u009b\u202e\nb';

/** What an output has written, to a terminal with colours or to a pipe. */
function written(isTerminal: boolean, write: (out: Output) => void): string {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const streams = { stdin: new PassThrough(), stdout, stderr } as unknown as Streams;
  Object.assign(stdout, { isTTY: isTerminal, columns: 200 });
  write(new Output(streams, { isQuiet: false, isJson: false, env: {} }));
  return String(stdout.read() ?? '') + String(stderr.read() ?? '');
}

describe.each([
  ['a terminal', true],
  ['a pipe', false],
])('on %s', (_where, isTerminal) => {
  test.each<[string, (out: Output) => void]>([
    ['lines', (out) => out.line(hostile)],
    ['notes', (out) => out.note(hostile)],
    ['warnings', (out) => out.warn(hostile)],
    ['cells of a table', (out) => out.table(['NAME'], [[hostile]])],
    ['fields', (out) => out.fields({ name: hostile })],
  ])('%s show escapes', (_what, write) => {
    const text = written(isTerminal, write);
    expect(text).toContain(String.raw`a\x1b[2J\x1b]0;owned\x07\x9b\u202e`);
    // oxlint-disable-next-line no-control-regex -- They are what must not be there.
    expect(text.replaceAll(/\u001b\[(?:1|22)m/g, '')).not.toMatch(/[\u001b\u0007\u009b\u202e]/);
  });

  test('JSON is the same value', () => {
    expect(JSON.parse(written(isTerminal, (out) => out.json({ hostile })))).toEqual({ hostile });
    expect(written(isTerminal, (out) => out.json({ hostile }))).not.toContain('\u009b');
  });
});

test('a table of a guest’s names has one line per row', () => {
  expect(
    written(false, (out) => out.table(['NAME'], [[hostile]]))
      .trimEnd()
      .split('\n'),
  ).toHaveLength(2);
});

test('a console on a terminal shows its escapes wherever its chunks are split, and ends lines as it did', async () => {
  const bytes = Buffer.from('boot\r\n\u001b[31mred\u009b2J ü\rover\r\r\nlast\r');
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    async function* chunks() {
      yield bytes.subarray(0, cut);
      yield bytes.subarray(cut);
    }
    let text = '';
    for await (const chunk of visibleChunks(chunks())) text += Buffer.from(chunk).toString();
    expect(text).toBe('boot\n' + String.raw`\x1b[31mred\x9b2J ü\rover` + '\n' + String.raw`last\r`);
  }
});
