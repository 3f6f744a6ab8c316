/**
 * The layers and blobs that running sandboxes and forks under way need, whether or not a snapshot still refers to them.
 * Counted, since many sandboxes share a layer.
 */
export class Pins {
  readonly #counts = new Map<string, number>();

  /** Holds these digests until the returned function is called, which is idempotent. */
  hold(names: Iterable<string>): () => void {
    const held = [...names];
    for (const name of held) this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
    return () => {
      for (const name of held.splice(0)) {
        const count = (this.#counts.get(name) ?? 0) - 1;
        if (count > 0) this.#counts.set(name, count);
        else this.#counts.delete(name);
      }
    };
  }

  current(): ReadonlySet<string> {
    return new Set(this.#counts.keys());
  }
}
