import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { limits } from '../limits.ts';
import { visibleStart } from './excerpt.ts';

const sane = new RegExp(`^[\\x21-\\x7e]{1,${limits.requestIdCharsMax}}$`);

/** The id that the caller gave the request, so that logs of both sides can be matched; otherwise a new id. */
export function requestIdOf({ headers }: Pick<IncomingMessage, 'headers'>): string {
  const given = headers['x-request-id'];
  return typeof given === 'string' && sane.test(given) ? given : randomUUID();
}

/** The part of a URL that may be logged. Queries can hold secrets. */
export function pathOf(url: string): string {
  return url.split('?', 1)[0] ?? '';
}

/** Method and path, without the query and shortened. Error messages begin with it. */
export function whereOf({ method, url }: { method: string; url: string }): string {
  return `${method} ${visibleStart(pathOf(url))}`;
}
