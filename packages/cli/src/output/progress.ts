import type { SnapshotProgressEvent } from '@forkd/api';
import { visibleLine } from '@forkd/api/constants';
import type { Output } from './output.ts';
import { formatMs } from './text.ts';

const TIME_COLUMNS = 9;
const STAGE_COLUMNS = 10;
/** Shorter work is not shown: nobody could read it. */
const QUIET_MS = 1500;
const TICK_MS = 200;
/** The end of a message that counts, such as `reading layer 3 of 12`. */
const COUNT = / \d+ of \d+$/;

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
      // A log needs the steps, not how far each is.
      if (COUNT.test(event.message)) return;
      stderr.write(`${line}\n`);
      return;
    }
    if (this.#stage !== event.stage) this.end();
    this.#out.status(line);
    this.#stage = event.stage;
  }

  /** Shows a stage and its elapsed time until the work is done. A function is called for each message. */
  async during<Result>(stage: string, message: string | (() => string), work: Promise<Result>): Promise<Result> {
    const textOf = typeof message === 'string' ? () => message : message;
    const show = () => this.show({ stage, message: textOf(), elapsed_ms: performance.now() - this.#startMs });
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
    this.#out.keepStatus();
    this.#stage = undefined;
  }
}

/** Shows the progress of work that has a single stage. */
export async function withProgress<Result>(
  out: Output,
  stage: string,
  message: string | (() => string),
  work: Promise<Result>,
): Promise<Result> {
  const progress = new Progress(out);
  try {
    return await progress.during(stage, message, work);
  } finally {
    progress.end();
  }
}

/** Shows on a terminal how many of `total` pieces of work are done: `12 of 50`. `work` calls `tick` after each. */
export function withCount<Result>(
  out: Output,
  stage: string,
  total: number,
  work: (tick: () => void) => Promise<Result>,
): Promise<Result> {
  let done = 0;
  const running = work(() => (done += 1));
  if (total < 2 || !out.streams.stderr.isTTY) return running;
  return withProgress(out, stage, () => `${done} of ${total}`, running);
}
