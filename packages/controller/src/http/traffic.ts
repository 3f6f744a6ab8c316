/** The number of requests under way, and the time since there was one. */
export class Traffic {
  #inFlight = 0;
  #lastMs = performance.now();

  get inFlight(): number {
    return this.#inFlight;
  }

  began(): void {
    this.#inFlight += 1;
  }

  ended(): void {
    this.#inFlight -= 1;
    this.touch();
  }

  touch(): void {
    this.#lastMs = performance.now();
  }

  /** Time since a request was last under way, or since `touch`. */
  idleMs(): number {
    return this.#inFlight > 0 ? 0 : performance.now() - this.#lastMs;
  }
}
