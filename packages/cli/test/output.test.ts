// Proves that what a guest says cannot make a terminal do anything, wherever it is not the output of a command.
import { PassThrough } from 'node:stream';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { Output, type Streams } from '../src/output/output.ts';
import { Progress, withCount } from '../src/output/progress.ts';
import { visibleChunks } from '../src/output/visible-chunks.ts';

const HOSTILE = 'a\u001b[2J\u001b]0;owned\u0007\u009b\u202e\nb';

/** The text that an output has written, to a terminal with colours or to a pipe. */
function written(isTerminal: boolean, write: (out: Output) => void): string {
  const { out, text } = outputTo(isTerminal);
  write(out);
  return text();
}

function outputTo(isTerminal: boolean, options = { isQuiet: false, isJson: false }) {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const streams = { stdin: new PassThrough(), stdout, stderr } as unknown as Streams;
  for (const stream of [stdout, stderr]) Object.assign(stream, { isTTY: isTerminal, columns: 200 });
  const out = new Output(streams, { ...options, env: {} });
  return { out, text: () => String(stdout.read() ?? '') + String(stderr.read() ?? '') };
}

describe.each([
  ['a terminal', true],
  ['a pipe', false],
])('on %s', (_where, isTerminal) => {
  test.each<[string, (out: Output) => void]>([
    ['lines', (out) => out.line(HOSTILE)],
    ['notes', (out) => out.note(HOSTILE)],
    ['warnings', (out) => out.warn(HOSTILE)],
    ['cells of a table', (out) => out.table(['NAME'], [[HOSTILE]])],
    ['fields', (out) => out.fields({ name: HOSTILE })],
  ])('%s show escapes', (_what, write) => {
    const text = written(isTerminal, write);
    expect(text).toContain(String.raw`a\x1b[2J\x1b]0;owned\x07\x9b\u202e`);
    // oxlint-disable-next-line no-control-regex -- They are what must not be there.
    expect(text.replaceAll(/\u001b\[(?:1|22)m/g, '')).not.toMatch(/[\u001b\u0007\u009b\u202e]/);
  });

  test('JSON is the same value', () => {
    expect(JSON.parse(written(isTerminal, (out) => out.json({ hostile: HOSTILE })))).toEqual({ hostile: HOSTILE });
    expect(written(isTerminal, (out) => out.json({ hostile: HOSTILE }))).not.toContain('\u009b');
  });
});

test('a table of a guest’s names has one line per row', () => {
  expect(
    written(false, (out) => out.table(['NAME'], [[HOSTILE]]))
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

describe('a count of long work', () => {
  afterEach(() => void vi.useRealTimers());

  /** The text that is written while two of three are done, one of which prints a line of the result. */
  async function counted(isTerminal: boolean, options?: { isQuiet: boolean; isJson: boolean }): Promise<string> {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
    const { out, text } = outputTo(isTerminal, options);
    let finish = () => {};
    const shown = withCount(out, 'rmi', 3, (tick) => {
      tick();
      return new Promise<void>((resolve) => {
        finish = () => {
          out.line('first');
          tick();
          vi.advanceTimersByTime(1_000);
          resolve();
        };
      });
    });
    vi.advanceTimersByTime(10_000);
    finish();
    await shown;
    return text();
  }

  test('is one line of a terminal, which the output of the work replaces', async () => {
    const text = await counted(true);
    expect(text).toMatch(/rmi +1 of 3/);
    expect(text).toMatch(/rmi +2 of 3\n$/);
    expect(text.startsWith('first\n')).toBe(true);
    expect(text.split('\n')).toHaveLength(3);
    // The line is cleared before the output of the work, and then written anew.
    expect(text).toContain('1 of 3\r\u001b[K\r\u001b[K');
  });

  test('within a stage replaces the line of the stage on a terminal, and is left out of a pipe', () => {
    const shown = (isTerminal: boolean) => {
      const { out, text } = outputTo(isTerminal);
      const progress = new Progress(out);
      for (const message of ['unpacking', 'reading layer 1 of 2', 'reading layer 2 of 2']) {
        progress.show({ stage: 'image', message, elapsed_ms: 1 });
      }
      progress.end();
      return text();
    };
    expect(shown(true)).toMatch(/layer 1 of 2[^\n]*layer 2 of 2\n$/);
    expect(shown(true).split('\n')).toHaveLength(2);
    expect(shown(false)).toMatch(/^[^\n]*unpacking\n$/);
  });

  test('is not in a pipe, in JSON or with -q', async () => {
    expect(await counted(false)).toBe('first\n');
    expect(await counted(true, { isQuiet: false, isJson: true })).toBe('first\n');
    expect(await counted(true, { isQuiet: true, isJson: false })).toBe('first\n');
  });
});
