import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { OutputEvent } from '@forkd/guest';
import { type Guest, STORM_PROGRAM, type StormLine } from '@forkd/lab';

/** About 10 ms of the guest's, by its own clock in ms since its program began. */
export interface Window {
  endMs: number;
  /** Pages written in it. */
  writes: number;
  /** The longest time between two looks at the clock. */
  gapMs: number;
}

/** What the program in the guest has said when asked. The guest gave its answer between the two instants of the host's. */
export interface Mark {
  askedAtMs: number;
  answeredAtMs: number;
  /** Since the last mark; the last one ends with the answer. */
  windows: Window[];
}

interface TickerLine extends StormLine {
  windows: [endUs: number, writes: number, gapUs: number][];
}

const TRIAL_STOP_MS = 100;

/** The program in the guest that writes, and looks at the clock all the while. It prints only when it is asked. */
export class Ticker {
  readonly #guest: Guest;
  readonly #command: string;
  readonly #events: AsyncIterator<OutputEvent>;
  #text = '';

  private constructor(guest: Guest, command: string, events: AsyncIterator<OutputEvent>) {
    this.#guest = guest;
    this.#command = command;
    this.#events = events;
  }

  /** Resolves when all of `mib` MiB has been written; from then on it is rewritten for ever, or with `storm` off only read. */
  static async start(guest: Guest, { mib, storm }: { mib: number; storm: boolean }): Promise<Ticker> {
    const args = [STORM_PROGRAM, String(mib), '--on-request', ...(storm ? [] : ['--read'])];
    const { id } = await guest.agent.start(args, { stdin: true });
    const output = await guest.agent.attach(id, { offset: 0 });
    const ticker = new Ticker(guest, id, output[Symbol.asyncIterator]());
    await ticker.mark();
    return ticker;
  }

  /** Throws when the guest has found a page that was not as it had written it. */
  async mark(): Promise<Mark> {
    const askedAtMs = performance.now();
    await this.#guest.agent.writeStdin(this.#command, Buffer.from('\n'));
    const line = await this.#line();
    const answeredAtMs = performance.now();
    if (line.errors > 0) throw new Error(`${line.errors} pages of the guest were not as it had written them`);
    const windows = line.windows.map(([endUs, writes, gapUs]) => ({ endMs: endUs / 1e3, writes, gapMs: gapUs / 1e3 }));
    return { askedAtMs, answeredAtMs, windows };
  }

  async #line(): Promise<TickerLine> {
    for (;;) {
      const end = this.#text.indexOf('\n');
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return JSON.parse(line) as TickerLine;
      }
      const { done, value } = await this.#events.next();
      if (done) throw new Error(`the program in the guest has ended; it said: ${this.#text}`);
      if (value.stream !== 'gap') this.#text += Buffer.from(value.data).toString();
    }
  }
}

/**
 * Whether the guest's clock stands still while its VM is stopped, tried out. An emulated one does, so that a guest cannot
 * see a pause in it.
 */
export async function clockStops(guest: Guest, ticker: Ticker): Promise<boolean> {
  const monitor = connect(join(guest.vm.record.dir, 'monitor.sock'));
  try {
    await once(monitor, 'connect');
    await ticker.mark();
    monitor.resume().write('{"execute":"qmp_capabilities"}\n{"execute":"stop"}\n');
    await delay(TRIAL_STOP_MS);
    monitor.write('{"execute":"cont"}\n');
    const { windows } = await ticker.mark();
    return Math.max(...windows.map((window) => window.gapMs)) < TRIAL_STOP_MS / 2;
  } finally {
    monitor.destroy();
  }
}
