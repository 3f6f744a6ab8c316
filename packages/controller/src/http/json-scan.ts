/** Bounds of a JSON body, checked before the body is parsed. */
export interface JsonBounds {
  bytesMax: number;
  /** Elements of arrays and fields of objects, at all levels together. */
  valuesMax: number;
  depthMax: number;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

/**
 * Counts the depth and the values of a JSON text, chunk by chunk and before the text is parsed. The parser decides
 * whether the text is valid JSON.
 */
export class JsonScan {
  readonly #bounds: JsonBounds;
  #depth = 0;
  /** Number of commas and opening brackets: a text has at most one value more. */
  #marks = 0;
  #inString = false;
  #isEscaped = false;

  constructor(bounds: JsonBounds) {
    this.#bounds = bounds;
  }

  /** Returns what is wrong with the text so far, as the end of a sentence, or `null`. */
  take(chunk: Uint8Array): string | null {
    for (const byte of chunk) {
      if (this.#inString) this.#inside(byte);
      else if (byte === QUOTE) this.#inString = true;
      else if (byte === COMMA) this.#marks += 1;
      else if (byte === OPEN_BRACKET || byte === OPEN_BRACE) {
        this.#marks += 1;
        this.#depth += 1;
        if (this.#depth > this.#bounds.depthMax) return `nests deeper than ${this.#bounds.depthMax} levels`;
      } else if (byte === CLOSE_BRACKET || byte === CLOSE_BRACE) this.#depth -= 1;
    }
    return this.#marks >= this.#bounds.valuesMax ? `has more than ${this.#bounds.valuesMax} values` : null;
  }

  #inside(byte: number): void {
    if (this.#isEscaped) this.#isEscaped = false;
    else if (byte === BACKSLASH) this.#isEscaped = true;
    else if (byte === QUOTE) this.#inString = false;
  }
}
