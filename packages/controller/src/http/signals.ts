import type { FastifyReply } from 'fastify';

import { anySignal } from '../deadline.ts';

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
    if (!reply.raw.writableFinished) gone.abort(new Error('the caller has gone away'));
  });
  return gone.signal;
}
