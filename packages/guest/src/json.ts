/** JSON of a peer that is not trusted, parsed in pieces: no piece of work is long, and nothing grows past its bounds. */
import { GuestError } from './errors.ts';
import { JSON_DEPTH_MAX, JSON_PIECE_BYTES, JSON_VALUES_MAX } from './limits.ts';
import { turns } from './turns.ts';
import type { Budget } from './types.ts';

type Container = { kind: 'array'; items: unknown[] } | { kind: 'object'; fields: Record<string, unknown>; key: string };

/** The token that may come next. `first` also allows the end of the container that has just begun. */
type Expected = 'value' | 'first value' | 'key' | 'first key' | 'colon' | 'comma' | 'end';

/** A number or a word, at the longest; no escape in a string is longer. */
const TOKEN_CHARS_MAX = 64;
const scalar = /[-+.0-9A-Za-z]*/y;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;

interface ParseOptions {
  onItem?: (item: unknown) => void;
  budget?: Budget | undefined;
}

/**
 * Parses a body of at most `bytesMax` bytes; an empty one is undefined. With `onItem` the items of the array that the body is are handed
 * over one by one, and the array comes out empty.
 */
export async function parseJson(
  chunks: AsyncIterable<Uint8Array>,
  bytesMax: number,
  { onItem, budget }: ParseOptions = {},
): Promise<unknown> {
  const decoder = new TextDecoder();
  const reader = new JsonReader(onItem);
  let bytes = 0;
  let sinceTurn = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes > bytesMax)
      throw new GuestError('bad_response', `An answer of the agent has more than ${bytesMax} bytes.`);
    await budget?.hold(bytes);
    for (let at = 0; at < chunk.length; at += JSON_PIECE_BYTES) {
      const piece = chunk.subarray(at, at + JSON_PIECE_BYTES);
      sinceTurn += piece.length;
      if (sinceTurn > JSON_PIECE_BYTES) {
        await turns.next();
        sinceTurn = piece.length;
      }
      reader.push(decoder.decode(piece, { stream: true }));
    }
  }
  return bytes === 0 ? undefined : reader.end(decoder.decode());
}

/** An incremental parser: `push` the text in any pieces, then `end`. */
export class JsonReader {
  readonly #onItem: ((item: unknown) => void) | undefined;
  readonly #open: Container[] = [];
  #expected: Expected = 'value';
  /** The part of an unfinished string that has arrived. */
  #string: string | undefined;
  /** The beginning of a token whose end has not come yet. */
  #rest = '';
  #values = 0;
  #root: unknown;

  constructor(onItem?: (item: unknown) => void) {
    this.#onItem = onItem;
  }

  push(piece: string): void {
    this.#take(piece, false);
  }

  /** @returns what the whole text says. */
  end(piece = ''): unknown {
    this.#take(piece, true);
    if (this.#expected !== 'end' || this.#rest !== '') throw noJson();
    return this.#root;
  }

  #take(piece: string, isLast: boolean): void {
    const text = this.#rest + piece;
    let at = 0;
    while (at < text.length) {
      const to = this.#string === undefined ? this.#token(text, at, isLast) : this.#content(text, at);
      if (to === at) break;
      at = to;
    }
    this.#rest = text.slice(at);
    if (this.#rest.length > TOKEN_CHARS_MAX) throw noJson();
  }

  /** Takes one token. @returns where it ends; `at` when its end has not come yet. */
  #token(text: string, at: number, isLast: boolean): number {
    const character = text[at]!;
    if (' \t\n\r'.includes(character)) return at + 1;
    if (character === '"') {
      if (!this.#expectsValue() && !this.#expectsKey()) throw noJson();
      this.#string = '';
      return at + 1;
    }
    if ('[]{},:'.includes(character)) {
      this.#punctuation(character);
      return at + 1;
    }
    scalar.lastIndex = at;
    scalar.test(text);
    const to = scalar.lastIndex;
    if (to === at || to - at > TOKEN_CHARS_MAX || !this.#expectsValue()) throw noJson();
    if (to === text.length && !isLast) return at;
    this.#value(parsed(text.slice(at, to)));
    return to;
  }

  /** Takes the content of a string as far as it has come, and its closing quote. */
  #content(text: string, at: number): number {
    let to = at;
    while (to < text.length) {
      const code = text.charCodeAt(to);
      if (code === QUOTE) break;
      const length = code !== BACKSLASH ? 1 : text[to + 1] === 'u' ? 6 : 2;
      if (to + length > text.length) break;
      to += length;
    }
    if (to > at) {
      this.#string += parsed(`"${text.slice(at, to)}"`) as string;
      return to;
    }
    if (text.charCodeAt(at) !== QUOTE) return at;
    const string = this.#string ?? '';
    this.#string = undefined;
    const top = this.#open.at(-1);
    if (top?.kind === 'object' && this.#expectsKey()) {
      top.key = string;
      this.#expected = 'colon';
    } else {
      this.#value(string);
    }
    return at + 1;
  }

  #punctuation(character: string): void {
    const top = this.#open.at(-1);
    if (character === '[' && this.#expectsValue()) {
      this.#begin({ kind: 'array', items: [] }, 'first value');
    } else if (character === '{' && this.#expectsValue()) {
      // An object without a prototype treats `__proto__` like any other field.
      this.#begin({ kind: 'object', fields: Object.create(null) as Record<string, unknown>, key: '' }, 'first key');
    } else if (character === ']' && top?.kind === 'array' && this.#endsWith('first value')) {
      this.#open.pop();
      this.#value(top.items);
    } else if (character === '}' && top?.kind === 'object' && this.#endsWith('first key')) {
      this.#open.pop();
      this.#value(top.fields);
    } else if (character === ',' && top !== undefined && this.#expected === 'comma') {
      this.#expected = top.kind === 'array' ? 'value' : 'key';
    } else if (character === ':' && this.#expected === 'colon') {
      this.#expected = 'value';
    } else {
      throw noJson();
    }
  }

  #begin(container: Container, expected: Expected): void {
    if (this.#open.length >= JSON_DEPTH_MAX)
      throw new GuestError('bad_response', "The agent's answer is nested too deep.");
    this.#open.push(container);
    this.#expected = expected;
  }

  #value(value: unknown): void {
    this.#values += 1;
    if (this.#values > JSON_VALUES_MAX) throw new GuestError('bad_response', "The agent's answer has too many values.");
    const top = this.#open.at(-1);
    this.#expected = top === undefined ? 'end' : 'comma';
    if (top === undefined) this.#root = value;
    else if (top.kind === 'object') top.fields[top.key] = value;
    else if (this.#open.length === 1 && this.#onItem !== undefined) this.#onItem(value);
    else top.items.push(value);
  }

  #expectsValue(): boolean {
    return this.#expected === 'value' || this.#expected === 'first value';
  }

  #expectsKey(): boolean {
    return this.#expected === 'key' || this.#expected === 'first key';
  }

  #endsWith(first: Expected): boolean {
    return this.#expected === 'comma' || this.#expected === first;
  }
}

/** A string or a scalar. */
function parsed(token: string): unknown {
  try {
    return JSON.parse(token) as unknown;
  } catch (cause) {
    throw noJson(cause);
  }
}

function noJson(cause?: unknown): GuestError {
  return new GuestError('bad_response', "The agent's answer is no JSON.", { cause });
}
