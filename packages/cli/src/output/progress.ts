import type { SnapshotProgressEvent } from '@forkd/api';
import { visibleLine } from '@forkd/api/constants';
import type { Output } from './output.ts';
import { ellipsis, formatMs } from './text.ts';

const TIME_COLUMNS = 9;
const STAGE_COLUMNS = 10;
const CLEAR_LINE = '\r\u001b[K';
/** Shorter work is not shown: nobody could read it. */
const QUIET_MS = 1500;
const TICK_MS = 200;

/**
 * Shows the stages of long work on stderr. A terminal gets one line per stage, rewritten as work proceeds. A file or a pipe
 * gets one line per event, without control characters.
 */
export class Progress {
  readonly #out: Output;
  readonly #isLive: boolean;
  readonly #startMs = performance.now();
  #stage: string | undefined;

  constructor(out: Output) {
    this.#out = out;
    this.#isLive = out.streams.stderr.isTTY;
  }

  show(event: Pick<SnapshotProgressEvent, 'stage' | 'message' | 'elapsed_ms'>): void {
    if (this.#out.isQuiet || this.#out.isJson) return;
    const time = formatMs(event.elapsed_ms).padStart(TIME_COLUMNS);
    const line = `${time}  ${visibleLine(event.stage).padEnd(STAGE_COLUMNS)}  ${visibleLine(event.message)}`;
    const { stderr } = this.#out.streams;
    // Output of the work is not overwritten by what comes next.
    if (event.stage === 'output') {
      this.end();
      stderr.write(`${visibleLine(event.message)}\n`);
      return;
    }
    if (!this.#isLive) {
      stderr.write(`${line}\n`);
      return;
    }
    const start = this.#stage === undefined || this.#stage === event.stage ? CLEAR_LINE : '\n';
    stderr.write(start + ellipsis(line, stderr.columns - 1));
    this.#stage = event.stage;
  }

  /** Shows a stage and its elapsed time until the work is done. */
  async during<Result>(stage: string, message: string, work: Promise<Result>): Promise<Result> {
    const show = () => this.show({ stage, message, elapsed_ms: performance.now() - this.#startMs });
    let ticks: NodeJS.Timeout | undefined;
    const first = setTimeout(() => {
      show();
      if (this.#isLive) ticks = setInterval(show, TICK_MS);
    }, QUIET_MS);
    try {
      return await work;
    } finally {
      clearTimeout(first);
      clearInterval(ticks);
    }
  }

  /** Ends the last line, which stays on the screen. */
  end(): void {
    if (this.#isLive && this.#stage !== undefined) this.#out.streams.stderr.write('\n');
    this.#stage = undefined;
  }
}

/** Shows the progress of work that has a single stage. */
export async function withProgress<Result>(
  out: Output,
  stage: string,
  message: string,
  work: Promise<Result>,
): Promise<Result> {
  const progress = new Progress(out);
  try {
    return await progress.during(stage, message, work);
  } finally {
    progress.end();
  }
}
