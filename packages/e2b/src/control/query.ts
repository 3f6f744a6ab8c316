import type { FastifyRequest } from 'fastify';
import { E2bError } from '../errors.ts';

/** A value of the query. A value that is given twice counts once. */
export function queryText(request: FastifyRequest, name: string): string | undefined {
  const value = (request.query as Record<string, unknown>)[name];
  const [first] = [value].flat();
  return typeof first === 'string' ? first : undefined;
}

/** The pairs of a filter. They are a form in the query, whose names and values were percent-encoded before. */
export function metadataFilter(text: string | undefined): (metadata: Readonly<Record<string, string>>) => boolean {
  const pairs = [...new URLSearchParams(text ?? '')].map(([key, value]) => [decoded(key), decoded(value)] as const);
  return (metadata) => pairs.every(([key, value]) => Object.hasOwn(metadata, key) && metadata[key] === value);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new E2bError(400, `metadata: '${text}' is not percent-encoded.`);
  }
}
