import { anySignal } from '@forkd/engine';
import type { FastifyReply } from 'fastify';

/** The abort reason when the client disconnects. Not an error: no caller is left to read the reply. */
class CallerGone extends Error {
  override readonly name = 'CallerGone';

  constructor() {
    super('the caller has gone away');
  }
}

/** True if `error` is a `CallerGone` or was caused by one. Each layer may have wrapped it in its own error. */
export function isCallerGone(error: unknown): boolean {
  if (error instanceof CallerGone) return true;
  return error instanceof Error && error.cause !== undefined && isCallerGone(error.cause);
}

/** Tells requests when to give up because the controller ends or their caller has left. */
export class Signals {
  readonly #draining = new AbortController();
  readonly #cut = new AbortController();

  /** Refuses long work from now on, and ends the streams, which would otherwise continue for ever. */
  drain(reason: Error): void {
    this.#draining.abort(reason);
  }

  /** Cancels all work that is still running. */
  cut(reason: Error): void {
    this.#cut.abort(reason);
  }

  /** The signal of a request that ends by itself. */
  ofCall(reply: FastifyReply): AbortSignal {
    return anySignal(goneSignal(reply), this.#cut.signal);
  }

  /** The signal of work that outlives its request for a while. */
  ofWork(signal: AbortSignal): AbortSignal {
    return anySignal(signal, this.#cut.signal);
  }

  /** The signal of a stream without an end. */
  ofStream(reply: FastifyReply): AbortSignal {
    return anySignal(goneSignal(reply), this.#draining.signal);
  }
}

/** Fires when the connection closes before the reply is complete. */
function goneSignal(reply: FastifyReply): AbortSignal {
  const gone = new AbortController();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) gone.abort(new CallerGone());
  });
  return gone.signal;
}
