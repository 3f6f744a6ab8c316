import { boundedText } from '@forkd/api';

const LINES_MAX = 1000;
const LINE_CHARS_MAX = 500;

/** Returns a reader of a program's output, which calls `onLine` with each whole line that is not empty, up to a number of lines. */
export function lineReader(onLine: (line: string) => void): (chunk: Buffer) => void {
  const decoder = new TextDecoder();
  let [rest, count] = ['', 0];
  return (chunk) => {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split(/[\r\n]+/);
    // A line without an end is cut too: a program may never end it.
    rest = boundedText(lines.pop() ?? '', LINE_CHARS_MAX);
    for (const line of lines) {
      if (line.trim() === '') continue;
      count += 1;
      if (count <= LINES_MAX) onLine(boundedText(line, LINE_CHARS_MAX));
      else if (count === LINES_MAX + 1) onLine('Further output is not shown.');
    }
  };
}
