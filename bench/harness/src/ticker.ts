import { setTimeout as delay } from 'node:timers/promises';
import type { OutputEvent } from '@forkd/guest';
import { type Guest, STORM_PROGRAM, type StormLine } from '@forkd/testing';

/** A window of about 10 ms, by the guest's own clock in ms since its program began. */
export interface Window {
  endMs: number;
  /** Pages written in the window. */
  writes: number;
  /** The longest time between two readings of the clock. */
  gapMs: number;
}

/** An answer of the program in the guest. The guest answered between these two instants of the host. */
export interface Mark {
  askedAtMs: number;
  answeredAtMs: number;
  /** Windows since the last mark. The last window ends with the answer. */
  windows: Window[];
}

interface TickerLine extends StormLine {
  windows: [endUs: number, writes: number, gapUs: number][];
}

const TRIAL_STOP_MS = 100;

/** The program in the guest that writes, and reads the clock all the time. It prints only on request. */
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

  /** Resolves when all of `mib` MiB has been written. The program then rewrites it for ever, or only reads with `storm` off. */
  static async start(guest: Guest, { mib, storm }: { mib: number; storm: boolean }): Promise<Ticker> {
    const args = [STORM_PROGRAM, String(mib), '--on-request', ...(storm ? [] : ['--read'])];
    const { id } = await guest.agent.start(args, { stdin: true });
    const output = await guest.agent.attach(id, { offset: 0 });
    const ticker = new Ticker(guest, id, output[Symbol.asyncIterator]());
    await ticker.mark();
    return ticker;
  }

  /** Throws if the guest has found a page that differs from what it wrote. */
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
 * Tests whether the guest's clock stands still while its VM is stopped. The clock of an emulated guest does, so that the
 * guest cannot see a pause in it.
 */
export async function clockStops(guest: Guest, ticker: Ticker): Promise<boolean> {
  await ticker.mark();
  await guest.vm.pause();
  await delay(TRIAL_STOP_MS);
  await guest.vm.resume();
  const { windows } = await ticker.mark();
  return Math.max(...windows.map((window) => window.gapMs)) < TRIAL_STOP_MS / 2;
}
