/** How many requests are under way, and since when there is none. */
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

  /** Since a request was last under way, or since `touch`. */
  idleMs(): number {
    return this.#inFlight > 0 ? 0 : performance.now() - this.#lastMs;
  }
}
