/** The bytes of a tar archive, and the fields of its headers. */
export const BLOCK_BYTES = 512;

/** An archive is damaged, or has a member that is refused. */
export class TarError extends Error {
  override readonly name = 'TarError';
}

/** Reads a stream of bytes in the pieces that its reader asks for. */
export class ByteReader {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(chunks: AsyncIterable<Buffer>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** Exactly so many bytes. Null at the end of the stream. */
  async read(count: number): Promise<Buffer | null> {
    const parts: Buffer[] = [];
    let left = count;
    while (left > 0) {
      if (this.#rest.length === 0 && !(await this.#fill())) {
        if (left === count) return null;
        throw new TarError('It ends too early.');
      }
      const part = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(part.length);
      left -= part.length;
      parts.push(part);
    }
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  }

  /** Exactly so many bytes. Throws at the end of the stream. */
  async must(count: number): Promise<Buffer> {
    const found = await this.read(count);
    if (found === null) throw new TarError('It ends too early.');
    return found;
  }

  /** Yields a number of bytes, in the pieces in which they arrive. */
  async *take(count: number): AsyncGenerator<Buffer> {
    let left = count;
    while (left > 0) {
      if (this.#rest.length === 0 && !(await this.#fill())) throw new TarError('It ends too early.');
      const part = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(part.length);
      left -= part.length;
      yield part;
    }
  }

  async skip(count: number): Promise<void> {
    let left = count;
    while (left > this.#rest.length) {
      left -= this.#rest.length;
      if (!(await this.#fill())) throw new TarError('It ends too early.');
    }
    this.#rest = this.#rest.subarray(left);
  }

  async drain(): Promise<void> {
    while (await this.#fill()) continue;
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  async #fill(): Promise<boolean> {
    const next = await this.#chunks.next();
    if (next.done === true) return false;
    this.#rest = next.value;
    return true;
  }
}

/** A field that ends with its first zero byte, if it has one. */
export function text(block: Buffer, at: number, length: number): string {
  return untilNul(block.subarray(at, at + length));
}

export function untilNul(field: Buffer): string {
  const end = field.indexOf(0);
  return field.toString('latin1', 0, end < 0 ? field.length : end);
}

/** Octal digits; or, where those do not suffice, a binary number whose first bit is set (GNU). */
export function number(block: Buffer, at: number, length: number): number {
  const first = block[at]!;
  if ((first & 0x80) === 0) {
    const digits = text(block, at, length).trim();
    if (!/^[0-7]*$/.test(digits)) throw new TarError('It is not a tar archive, or it is damaged.');
    return digits === '' ? 0 : Number.parseInt(digits, 8);
  }
  let value = (first & 0x40) === 0 ? first & 0x3f : (first & 0x7f) - 0x80;
  for (let next = at + 1; next < at + length; next++) value = value * 256 + block[next]!;
  return value;
}
