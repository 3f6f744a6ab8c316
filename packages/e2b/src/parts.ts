import type { FastifyReply, FastifyRequest } from 'fastify';
import type { AccessTokens } from './access-tokens.ts';
import type { Watchers } from './envd/watchers.ts';
import type { GuestMemories } from './guest/memory.ts';
import type { Turns } from './interpreter/turns.ts';
import type { Operations } from './operations.ts';

/** The reply to a request that makes something, and how to unmake it. */
export interface Made {
  status: number;
  body: object;
  undo: () => Promise<void>;
}

/** The parts that the controller lends to E2B's wire. */
export interface Lent {
  operations: Operations;
  signals: {
    /** Fires when the caller leaves. */
    ofCall(reply: FastifyReply): AbortSignal;
    /** Fires when the caller leaves or the controller ends. */
    ofStream(reply: FastifyReply): AbortSignal;
  };
  /** Throws `ApiError` unless the key is a token of the controller. */
  checkKey(request: FastifyRequest, key: string | undefined): Promise<void>;
  /** Answers a request once for each `Idempotency-Key`. */
  answerOnce(
    request: FastifyRequest,
    reply: FastifyReply,
    run: (requestKey: string | null, signal: AbortSignal) => Promise<Made>,
  ): Promise<FastifyReply>;
  /** The end of the addresses of ports of guests, after `PORT-ID.`. `null`: nothing serves them. */
  portAuthority(): string | null;
  /** A secret of this data directory, which outlives the controller. */
  secret: Uint8Array;
}

/** The parts that the routes have in common. */
export interface Parts extends Lent {
  access: AccessTokens;
  memories: GuestMemories;
  watchers: Watchers;
  /** The turns of those who use one interpreter. */
  turns: Turns;
}
