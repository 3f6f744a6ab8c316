import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { type ErrorCode, ApiError, limits as apiLimits } from '@forkd/api';
import { turns } from '@forkd/guest';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type JsonBounds, JsonScan } from './json-scan.ts';
import { whereOf } from './request-id.ts';
import type { HttpBounds } from './server-factory.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Bytes of the request body that count towards the limit for large bodies. */
    heldBytes: number;
  }
}

const depthMax = apiLimits.jsonDepthMax;
const small: JsonBounds = { bytesMax: apiLimits.jsonBodyBytesMax, valuesMax: apiLimits.jsonValuesMax, depthMax };
/** Bounds for routes that take commands, their input, or programs. */
const large: JsonBounds = {
  bytesMax: apiLimits.largeJsonBodyBytesMax,
  valuesMax: apiLimits.largeJsonValuesMax,
  depthMax,
};

/** Memory for all large bodies together, so that many callers at once cannot fill it. */
class BodyMemory {
  #bytes = 0;

  /** Returns true if there was room. */
  take(request: FastifyRequest, bytes: number, bytesMax: number): boolean {
    if (this.#bytes + bytes > bytesMax) return false;
    this.#bytes += bytes;
    request.heldBytes += bytes;
    return true;
  }

  give(request: FastifyRequest): void {
    this.#bytes -= request.heldBytes;
    request.heldBytes = 0;
  }
}

const memory = new BodyMemory();

/** Reads JSON bodies within bounds and a time limit. Clients send application/json even with an empty body. */
export function readJsonBodies(app: FastifyInstance, bounds: HttpBounds): void {
  app.decorateRequest('heldBytes', 0);
  app.addHook('onRequest', (request, reply, done) => {
    reply.raw.once('close', () => memory.give(request));
    done();
  });
  const parseJson = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', async (request: FastifyRequest, payload: IncomingMessage) => {
    const body = await new BodyReader(request, payload, bounds).read();
    if (body.length === 0) return undefined;
    const parse = () =>
      new Promise((resolve, reject) => {
        const text = body.toString('utf8');
        const done = (error: Error | null, value?: unknown) => (error === null ? resolve(value) : reject(error));
        Promise.resolve(parseJson(request, text, done)).catch(reject);
      });
    if (body.length > small.bytesMax) await turns.next();
    return parse();
  });
}

/**
 * Reads one body, up to its first problem. The rest is still received, up to some length, and discarded, so that the
 * sender reads the reason for the refusal and not a broken pipe.
 */
class BodyReader {
  readonly #request: FastifyRequest;
  readonly #payload: IncomingMessage;
  readonly #http: HttpBounds;
  readonly #bounds: JsonBounds;
  readonly #scan: JsonScan;
  /** Grows by doubling. A list of one-byte chunks would take a hundred times their length. */
  #body: Buffer = Buffer.alloc(0);
  #length = 0;
  /** Bytes received so far, whether kept or not. */
  #bytes = 0;
  /** Settles when the current chunk has had its turn. The end of the body may be reported before. */
  #looking: Promise<void> = Promise.resolve();
  #problem: ApiError | null = null;

  constructor(request: FastifyRequest, payload: IncomingMessage, http: HttpBounds) {
    this.#request = request;
    this.#payload = payload;
    this.#http = http;
    const { config } = request.routeOptions;
    const isLarge = config?.operation?.more.largeBody === true || config?.takesLargeJson === true;
    this.#bounds = isLarge ? large : small;
    this.#scan = new JsonScan(this.#bounds);
    if (Number(request.headers['content-length']) > this.#bounds.bytesMax) this.#refuseLength();
  }

  /** A single time limit covers the whole body, however often a byte arrives. */
  read(): Promise<Buffer> {
    const payload = this.#payload;
    const { jsonBodyTimeoutMs: timeoutMs, discardedBytesMax } = this.#http;
    if (Number(this.#request.headers['content-length']) > discardedBytesMax) return this.#fail();
    return new Promise((resolve, reject) => {
      const settle = (finish: () => void): void => {
        clearTimeout(timer);
        payload.off('data', onData).off('end', onEnd).off('error', onError);
        finish();
      };
      const timer = setTimeout(() => {
        this.#refuse('request_timeout', `did not arrive within ${timeoutMs / 1000} s`);
        settle(() => reject(this.#problem));
      }, timeoutMs);
      const onData = (chunk: Buffer): void => {
        this.#bytes += chunk.length;
        if (this.#bytes > discardedBytesMax) settle(() => reject(this.#problem));
        else if (this.#problem === null) this.#take(chunk);
      };
      const onEnd = (): void => {
        settle(() => {
          this.#end().then(resolve, reject);
        });
      };
      const onError = (cause: Error): void => {
        this.#problem ??= this.#error('bad_request', 'ended too early', cause);
        settle(() => reject(this.#problem));
      };
      payload.on('data', onData).on('end', onEnd).on('error', onError);
    });
  }

  #take(chunk: Buffer): void {
    if (this.#bytes > this.#bounds.bytesMax) return this.#refuseLength();
    if (this.#bytes <= small.bytesMax) return this.#look(chunk);
    if (!memory.take(this.#request, chunk.length, this.#http.bodiesBytesMax)) {
      return this.#refuse('busy', 'is one of too many large ones at the same time');
    }
    this.#payload.pause();
    this.#looking = this.#lookInTurn(chunk);
  }

  async #lookInTurn(chunk: Buffer): Promise<void> {
    await turns.next();
    this.#look(chunk);
    this.#payload.resume();
  }

  #look(chunk: Buffer): void {
    const problem = this.#scan.take(chunk);
    if (problem === null) this.#append(chunk);
    else this.#refuse('bad_request', problem);
  }

  #append(chunk: Buffer): void {
    const length = this.#length + chunk.length;
    if (length > this.#body.length) {
      const grown = Buffer.allocUnsafe(Math.min(this.#bounds.bytesMax, Math.max(length, 2 * this.#body.length)));
      this.#body.copy(grown, 0, 0, this.#length);
      this.#body = grown;
    }
    chunk.copy(this.#body, this.#length);
    this.#length = length;
  }

  async #end(): Promise<Buffer> {
    await this.#looking;
    if (this.#problem !== null) throw this.#problem;
    const body = this.#body.subarray(0, this.#length);
    if (!isUtf8(body)) this.#refuse('bad_request', 'is not UTF-8');
    return this.#problem === null ? body : this.#fail();
  }

  #fail(): Promise<never> {
    return Promise.reject(this.#problem);
  }

  #refuseLength(): void {
    this.#refuse('too_large', `is longer than ${this.#bounds.bytesMax} bytes`);
  }

  /** Reports only the first problem. Nothing is kept after it. */
  #refuse(code: ErrorCode, problem: string): void {
    this.#problem ??= this.#error(code, problem);
    this.#body = Buffer.alloc(0);
    this.#length = 0;
    memory.give(this.#request);
  }

  #error(code: ErrorCode, problem: string, cause?: Error): ApiError {
    return new ApiError(code, `${whereOf(this.#request)}: the body ${problem}.`, { cause });
  }
}
