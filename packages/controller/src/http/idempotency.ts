import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Outcome, Replies } from '../state/replies.ts';
import type { Signals } from './signals.ts';

/**
 * Answers a request that makes something. With the header `Idempotency-Key` the request is carried out once, however often
 * it is sent: `run` gets the name under which to note what it makes. The work continues for a while after the caller
 * has left, since only the reply may have been lost.
 */
export async function answerOnce(
  { replies, signals }: { replies: Pick<Replies, 'answer'>; signals: Signals },
  request: FastifyRequest,
  reply: FastifyReply,
  run: (requestKey: string | null, signal: AbortSignal) => Promise<Outcome>,
): Promise<FastifyReply> {
  const key = request.headers['idempotency-key'];
  if (typeof key !== 'string') {
    const { status, body } = await run(null, signals.ofCall(reply));
    return reply.code(status).send(body);
  }
  const { method, url, body: asked } = request;
  const once = (requestKey: string, abandoned: AbortSignal) => run(requestKey, signals.ofWork(abandoned));
  const { status, body } = await replies.answer(key, { method, url, body: asked }, signals.ofCall(reply), once);
  return reply.code(status).send(body);
}
