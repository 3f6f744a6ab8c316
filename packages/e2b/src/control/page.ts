import type { FastifyReply } from 'fastify';
import { E2bError } from '../errors.ts';
import { limits } from '../limits.ts';

/** The part of a list that a request asks for. A header has the token of the next part. */
export function sendPage<Item>(
  reply: FastifyReply,
  items: readonly Item[],
  { limit, nextToken }: { limit: string | undefined; nextToken: string | undefined },
  describe: (item: Item) => object,
): FastifyReply {
  const size = wholeNumber('limit', limit, limits.pageSizeDefault);
  if (size < 1 || size > limits.pageSizeMax) throw new E2bError(400, `The limit must be 1 to ${limits.pageSizeMax}.`);
  const from = wholeNumber('nextToken', nextToken, 0);
  if (from + size < items.length) reply.header('x-next-token', String(from + size));
  return reply.send(items.slice(from, from + size).map(describe));
}

function wholeNumber(name: string, text: string | undefined, byDefault: number): number {
  if (text === undefined || text === '') return byDefault;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new E2bError(400, `${name} must be a whole number, and is '${text}'.`);
}
