/** Bounds of a JSON body, checked before the body is parsed. */
export interface JsonBounds {
  bytesMax: number;
  /** Elements of arrays and fields of objects, at all levels together. */
  valuesMax: number;
  depthMax: number;
}

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const openBracket = 0x5b;
const closeBracket = 0x5d;
const openBrace = 0x7b;
const closeBrace = 0x7d;

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
      else if (byte === quote) this.#inString = true;
      else if (byte === comma) this.#marks += 1;
      else if (byte === openBracket || byte === openBrace) {
        this.#marks += 1;
        this.#depth += 1;
        if (this.#depth > this.#bounds.depthMax) return `nests deeper than ${this.#bounds.depthMax} levels`;
      } else if (byte === closeBracket || byte === closeBrace) this.#depth -= 1;
    }
    return this.#marks >= this.#bounds.valuesMax ? `has more than ${this.#bounds.valuesMax} values` : null;
  }

  #inside(byte: number): void {
    if (this.#isEscaped) this.#isEscaped = false;
    else if (byte === backslash) this.#isEscaped = true;
    else if (byte === quote) this.#inString = false;
  }
}
