import type { SnapshotProgressEvent } from '@forkd/api';
import type { Output } from './output.ts';
import { ellipsis, formatMs } from './text.ts';

const TIME_COLUMNS = 9;
const STAGE_COLUMNS = 10;
const CLEAR_LINE = '\r\u001b[K';
/** Work that is over before it can be read is not told of. */
const QUIET_MS = 1500;
const TICK_MS = 200;

/**
 * The stages of long work on stderr. A terminal has one line a stage, rewritten as it goes on; a file or a pipe has one
 * line an event, and no control characters.
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

  /** Shows that this goes on, and for how long, until it is over. */
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

  /** Leaves the last line standing. */
  end(): void {
    if (this.#isLive && this.#stage !== undefined) this.#out.streams.stderr.write('\n');
    this.#stage = undefined;
  }
}

/** One piece of long work, told of by itself. */
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
