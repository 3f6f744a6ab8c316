import { constants, type ClientHttp2Stream } from 'node:http2';
import { Duplex } from 'node:stream';
import { GuestError } from './errors.ts';

/** A request whose body and answer are the two directions of a connection. Each ends by itself; an error ends both. */
export class Tunnel extends Duplex {
  readonly #stream: ClientHttp2Stream;
  /** True once the guest has said all. */
  #isWhole = false;

  /** `stream` has been answered. `onBytes` counts what its reader takes. */
  constructor(stream: ClientHttp2Stream, onBytes: (count: number) => void) {
    super({ allowHalfOpen: true });
    this.#stream = stream;
    stream.on('data', (chunk: Uint8Array) => {
      onBytes(chunk.length);
      if (!this.push(chunk)) stream.pause();
    });
    stream.once('end', () => {
      if (stream.rstCode !== constants.NGHTTP2_NO_ERROR || stream.aborted) return;
      this.#isWhole = true;
      this.push(null);
    });
    stream.once('close', () => {
      // A program that has said all may have ended, and takes no more.
      if (this.#isWhole && this.writableLength === 0) this.end();
      else this.destroy(broken(stream));
    });
    stream.pause();
  }

  override _read(): void {
    this.#stream.resume();
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void): void {
    if (this.#stream.closed) done(broken(this.#stream));
    else this.#stream.write(chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    if (this.#stream.closed) done();
    else this.#stream.end(done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#stream.closed) this.#stream.close(constants.NGHTTP2_CANCEL);
    this.#stream.destroy();
    done(error);
  }
}

function broken({ errored, rstCode }: ClientHttp2Stream): GuestError {
  const message = `The connection to the port broke off (HTTP/2 code ${rstCode ?? 'unknown'}).`;
  return new GuestError('transfer_broken', message, { cause: errored });
}
