import { turns } from '@forkd/guest';
import { limits } from './limits.ts';

/** A long field of a reply: text, or bytes that are decoded as UTF-8. Invalid bytes become replacement characters. */
export type LongText = string | Uint8Array;

/**
 * A JSON reply that is too long to build at once. It is written in pieces, as fast as its reader takes them. `release` is
 * called once, when the reply has been sent or will not be sent.
 */
export class LargeReply {
  readonly #pieces: () => Iterable<string | Buffer>;
  readonly release: () => void;
  /** The whole reply, if it is a single piece. */
  readonly whole: Buffer | undefined;

  private constructor(pieces: () => Iterable<string | Buffer>, release: () => void, whole?: Buffer) {
    this.#pieces = pieces;
    this.release = release;
    this.whole = whole;
  }

  /** An object with some long fields. */
  static withTexts(fields: object, texts: Readonly<Record<string, LongText>>, release: () => void): LargeReply {
    return new LargeReply(() => piecesOf(fields, texts), release);
  }

  /** A reply whose JSON has been collected already. */
  static ofJson(pieces: readonly Buffer[], release: () => void): LargeReply {
    return new LargeReply(() => pieces, release, pieces.length === 1 ? pieces[0] : undefined);
  }

  /** Other work gets its turn between two pieces, even if the reader takes them at once. */
  async *json(): AsyncGenerator<string | Buffer> {
    for (const piece of this.#pieces()) {
      yield piece;
      await turns.next();
    }
  }
}

function* piecesOf(fields: object, texts: Readonly<Record<string, LongText>>): Generator<string> {
  let before = '{';
  for (const [name, text] of Object.entries(texts)) {
    yield `${before}${JSON.stringify(name)}:"`;
    for (const piece of typeof text === 'string' ? slicesOf(text) : decodedOf(text)) {
      // A surrogate pair that is cut in two becomes two escapes, which a parser joins again.
      yield JSON.stringify(piece).slice(1, -1);
    }
    before = '",';
  }
  yield `${before}${JSON.stringify(fields).slice(1)}`;
}

function* slicesOf(text: string): Generator<string> {
  for (let at = 0; at < text.length; at += limits.replyPieceBytes) yield text.slice(at, at + limits.replyPieceBytes);
}

function* decodedOf(bytes: Uint8Array): Generator<string> {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  for (let at = 0; at < bytes.length; at += limits.replyPieceBytes) {
    yield decoder.decode(bytes.subarray(at, at + limits.replyPieceBytes), { stream: true });
  }
  yield decoder.decode();
}

/** Collects the items of a list as JSON. The memory kept is as long as the reply will be. */
export class JsonList {
  readonly #pieces: Buffer[] = [];
  #piece = '[';
  #isEmpty = true;

  add(item: unknown): void {
    this.#piece += `${this.#isEmpty ? '' : ','}${JSON.stringify(item)}`;
    this.#isEmpty = false;
    if (this.#piece.length < limits.replyPieceBytes) return;
    this.#pieces.push(Buffer.from(this.#piece));
    this.#piece = '';
  }

  end(): Buffer[] {
    return [...this.#pieces, Buffer.from(`${this.#piece}]`)];
  }
}
