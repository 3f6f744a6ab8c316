import type { FastifyReply, FastifyRequest } from 'fastify';

import type { Replies, Reply } from '../replies.ts';

/**
 * Answers a request that makes something. With the header `Idempotency-Key` it is carried out once, however often it is
 * sent: `run` gets the name under which to note what it makes.
 */
export async function answerOnce(
  replies: Pick<Replies, 'answer'>,
  request: FastifyRequest,
  reply: FastifyReply,
  run: (requestKey: string | null) => Promise<Reply>,
): Promise<FastifyReply> {
  const key = request.headers['idempotency-key'];
  const { method, url, body: asked } = request;
  const { status, body } =
    typeof key === 'string' ? await replies.answer(key, { method, url, body: asked }, run) : await run(null);
  return reply.code(status).send(body);
}
