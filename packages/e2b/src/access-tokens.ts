import { createHash, createHmac, timingSafeEqual } from 'node:crypto';

/**
 * The access token of each sandbox, which its creator gets and sends with every request to the guest. Tokens are derived from a
 * secret, so that they hold after the controller was restarted, and each forked child has its own.
 */
export class AccessTokens {
  readonly #secret: Uint8Array;

  constructor(secret: Uint8Array) {
    this.#secret = secret;
  }

  of(sandboxId: string): string {
    return createHmac('sha256', this.#secret).update(`e2b access ${sandboxId}`).digest('hex');
  }

  isOf(sandboxId: string, shown: string): boolean {
    return isSame(this.of(sandboxId), shown);
  }

  /** True if the signature of a file URL was made with the token of the sandbox. */
  hasSigned(sandboxId: string, { path, operation, user, expiration, signature }: SignedRequest): boolean {
    const fields = [path, operation, user, this.of(sandboxId), ...(expiration === undefined ? [] : [expiration])];
    const digest = createHash('sha256').update(fields.join(':')).digest('base64').replace(/=+$/, '');
    return isSame(`v1_${digest}`, signature);
  }
}

export interface SignedRequest {
  path: string;
  operation: 'read' | 'write';
  user: string;
  /** Seconds since 1970. Absent: the URL does not expire. */
  expiration: string | undefined;
  signature: string;
}

/** Compares digests, which have equal lengths, so that the time taken reveals nothing. */
function isSame(one: string, other: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(one), digest(other));
}
