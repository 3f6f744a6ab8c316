import { createHash, randomBytes } from 'node:crypto';
import { ApiError, limits, PTY_TICKET_PREFIX, type PtyTicket } from '@forkd/api';

const TICKET_BYTES = 24;
/** Tickets that wait to be used. The oldest are dropped first. */
const TICKETS_MAX = 1024;

interface Right {
  path: string;
  tokenId: string | null;
  expiresMs: number;
}

/**
 * Tickets for web pages, which cannot send a header with a WebSocket. A ticket stands for the token of the request that
 * got it, for one connection to one path, soon. It travels in a header, so no log of URLs has it.
 */
export class Tickets {
  readonly #rights = new Map<string, Right>();
  readonly #now: () => number;

  constructor(now: () => number = Date.now) {
    this.#now = now;
  }

  issue(path: string, tokenId: string | null): PtyTicket {
    const ticket = randomBytes(TICKET_BYTES).toString('base64url');
    const expiresMs = this.#now() + limits.ptyTicketSecs * 1000;
    this.#rights.set(digestOf(ticket), { path, tokenId, expiresMs });
    for (const [digest, right] of this.#rights) {
      if (this.#rights.size <= TICKETS_MAX && right.expiresMs > this.#now()) break;
      this.#rights.delete(digest);
    }
    return { ticket, expires_unix: Math.floor(expiresMs / 1000) };
  }

  /** Uses a ticket up. Returns the id of its token. Throws `unauthorized` unless it is good for this path now. */
  use(what: string, path: string, ticket: string): string | null {
    const digest = digestOf(ticket);
    const right = this.#rights.get(digest);
    this.#rights.delete(digest);
    if (right !== undefined && right.path === path && right.expiresMs > this.#now()) return right.tokenId;
    throw new ApiError('unauthorized', `${what}: the ticket is not good for this connection.`, {
      hint: `A ticket is good for ${limits.ptyTicketSecs} s, for one connection to the terminal that it was made for.`,
    });
  }
}

/** The ticket among the subprotocols that a request names. */
export function ticketOf(protocols: string | undefined): string | undefined {
  const named = protocols?.split(',').map((protocol) => protocol.trim());
  return named?.find((protocol) => protocol.startsWith(PTY_TICKET_PREFIX))?.slice(PTY_TICKET_PREFIX.length);
}

function digestOf(ticket: string): string {
  return createHash('sha256').update(ticket).digest('hex');
}
