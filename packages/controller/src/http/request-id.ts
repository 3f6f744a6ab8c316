import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

import { limits } from '../limits.ts';

const sane = new RegExp(`^[\\x21-\\x7e]{1,${limits.requestIdCharsMax}}$`);

/** The id that the caller gave his request, so that his logs and ours can be laid side by side; else a new one. */
export function requestIdOf({ headers }: Pick<IncomingMessage, 'headers'>): string {
  const given = headers['x-request-id'];
  return typeof given === 'string' && sane.test(given) ? given : randomUUID();
}

/** Of a URL, what may be written to a log: queries can hold what is nobody's business. */
export function pathOf(url: string): string {
  return url.split('?', 1)[0] ?? '';
}
