/**
 * A long-running command whose output can be verified: it prints `n check`, where `check` depends on all previous lines.
 * The command writes to one memory page per line, so that a branch has something to capture.
 */
const PROGRAM = `
import sys, time
check, n, pages = 1, 0, bytearray(4 << 20)
while True:
    check = (check * 31 + n) % 1000003
    pages[n * 4096 % len(pages)] = n % 256
    sys.stdout.write(f"{n} {check}\\n")
    sys.stdout.flush()
    n += 1
    time.sleep(0.05)
`.trimStart();

export const counterArgs: readonly string[] = ['python3', '-u', '-c', PROGRAM];

/** The state of a counter: the next number, the check of the previous line, and the output offset of the next line. */
export interface CounterState {
  readonly next: number;
  readonly check: number;
  readonly offset: number;
}

export const counterStart: CounterState = { next: 0, check: 1, offset: 0 };

const NEWLINE = 0x0a;

/** Verifies a counter's output from a known state on. Detects every missing, duplicate or wrong line. */
export class CounterReader {
  #state: CounterState;
  #pending = Buffer.alloc(0);
  #fault: string | undefined;

  constructor(from: CounterState) {
    this.#state = from;
  }

  get state(): CounterState {
    return this.#state;
  }

  /** The first fault that was found in the output. */
  get fault(): string | undefined {
    return this.#fault;
  }

  feed(offset: number, data: Uint8Array): void {
    const expected = this.#state.offset + this.#pending.length;
    if (offset !== expected) this.#fail(`output continues at byte ${offset}, not at ${expected}`);
    let rest = Buffer.concat([this.#pending, data]);
    for (let end = rest.indexOf(NEWLINE); end !== -1; end = rest.indexOf(NEWLINE)) {
      this.#line(rest.subarray(0, end).toString('latin1'), end + 1);
      rest = rest.subarray(end + 1);
    }
    this.#pending = rest;
  }

  gap(from: number, to: number): void {
    this.#fail(`bytes ${from} to ${to} are gone`);
  }

  #line(line: string, bytes: number): void {
    const { next, check, offset } = this.#state;
    const checkNext = (check * 31 + next) % 1_000_003;
    if (line !== `${next} ${checkNext}`) this.#fail(`line "${line}" came where "${next} ${checkNext}" had to`);
    this.#state = { next: next + 1, check: checkNext, offset: offset + bytes };
  }

  #fail(fault: string): void {
    this.#fault ??= fault;
  }
}
