import type { SnapshotProgressEvent } from '@forkd/api';
import type { Output } from './output.ts';
import { ellipsis, formatMs } from './text.ts';

const TIME_COLUMNS = 9;
const STAGE_COLUMNS = 10;
const CLEAR_LINE = '\r\u001b[K';

/**
 * The stages of a build on stderr. A terminal has one line a stage, rewritten as it goes on; a file or a pipe has one
 * line an event, and no control characters.
 */
export class Progress {
  readonly #out: Output;
  readonly #isLive: boolean;
  #stage: string | undefined;

  constructor(out: Output) {
    this.#out = out;
    this.#isLive = out.streams.stderr.isTTY;
  }

  show(event: SnapshotProgressEvent): void {
    if (this.#out.isQuiet || this.#out.isJson) return;
    const time = formatMs(event.elapsed_ms).padStart(TIME_COLUMNS);
    const line = `${time}  ${event.stage.padEnd(STAGE_COLUMNS)}  ${event.message}`;
    const { stderr } = this.#out.streams;
    if (!this.#isLive) {
      stderr.write(`${line}\n`);
      return;
    }
    const start = this.#stage === undefined || this.#stage === event.stage ? CLEAR_LINE : '\n';
    stderr.write(start + ellipsis(line, stderr.columns - 1));
    this.#stage = event.stage;
  }

  /** Leaves the last line standing. */
  end(): void {
    if (this.#isLive && this.#stage !== undefined) this.#out.streams.stderr.write('\n');
    this.#stage = undefined;
  }
}
