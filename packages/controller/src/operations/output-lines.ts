import { boundedText } from '@forkd/api';
import { limits } from '../limits.ts';

/** Reports output line by line as it arrives, up to a number of lines, and keeps the last lines for an error. */
export class OutputLines {
  readonly #onLine: (line: string) => void;
  readonly #decoder = new TextDecoder();
  readonly #last: string[] = [];
  #rest = '';
  #count = 0;

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  add(data: Uint8Array): void {
    const lines = (this.#rest + this.#decoder.decode(data, { stream: true })).split(/\r?\n/);
    // A line without an end is cut too: a guest may never end it.
    this.#rest = boundedText(lines.pop() ?? '', limits.outputLineCharsMax);
    for (const line of lines) this.#take(line);
  }

  /** Reports what came after the last line feed. Returns the last lines. */
  end(): string {
    if (this.#rest !== '') this.#take(this.#rest);
    this.#rest = '';
    return this.#last.join('\n');
  }

  #take(text: string): void {
    const line = boundedText(text, limits.outputLineCharsMax);
    this.#last.push(line);
    if (this.#last.length > limits.outputLastLines) this.#last.shift();
    this.#count += 1;
    if (this.#count <= limits.outputLinesMax) this.#onLine(line);
    else if (this.#count === limits.outputLinesMax + 1) this.#onLine('Further output is not shown.');
  }
}
