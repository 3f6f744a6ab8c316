import type { FastifyReply } from 'fastify';

import { anySignal } from '../deadline.ts';

/** Why a request gives up whose caller has: nobody's fault, and nobody reads the answer. */
class CallerGone extends Error {
  override readonly name = 'CallerGone';

  constructor() {
    super('the caller has gone away');
  }
}

/** Whether `error` is that, or was caused by it: each layer that it passes may have put its own around it. */
export function isCallerGone(error: unknown): boolean {
  if (error instanceof CallerGone) return true;
  return error instanceof Error && error.cause !== undefined && isCallerGone(error.cause);
}

/** When requests are to give up, apart from their caller having gone away. */
export class Signals {
  readonly #draining = new AbortController();
  readonly #cut = new AbortController();

  /** No request may begin anything long; streams, which would go on for ever, end now. */
  drain(reason: Error): void {
    this.#draining.abort(reason);
  }

  /** All that still runs gives up. */
  cut(reason: Error): void {
    this.#cut.abort(reason);
  }

  /** For a request with an end. */
  ofCall(reply: FastifyReply): AbortSignal {
    return anySignal(goneSignal(reply), this.#cut.signal);
  }

  /** For one without. */
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
