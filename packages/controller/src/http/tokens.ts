import { createHash, timingSafeEqual } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { ApiError, limits } from '@forkd/api';
import type { Logger } from 'pino';
import { messageOf } from '../errors.ts';
import { UsageError } from '../usage-error.ts';

/** Placeholder that installation guides write in place of a token. */
const placeholder = /^(replace|change)[_-]?me/i;
/** Maximum length of a token file. A longer file is some other file. */
const FILE_BYTES_MAX = 64 * 1024;
const NO_TOKEN_HINT =
  'Send `authorization: Bearer TOKEN`; forkd and the SDK take the token from FORKD_TOKEN. The unix socket needs none: `curl --unix-socket DATA/run/controller.sock http://localhost/docs`.';
/** Digits of a token's SHA-256 in the audit log: enough to tell tokens apart, too few to help guess one. */
const ID_DIGITS = 8;

/** The bearer tokens that callers may present. The file has one per line, and is read again when it changes. */
export class Tokens {
  readonly #path: string;
  readonly #log: Logger;
  #digests: Buffer[];
  #seen: string;

  private constructor(path: string, digests: Buffer[], seen: string, log: Logger) {
    this.#path = path;
    this.#digests = digests;
    this.#seen = seen;
    this.#log = log;
  }

  /** Throws `UsageError` if the file cannot be read, has no token, or has one that could be guessed. */
  static async open(path: string, log: Logger): Promise<Tokens> {
    const seen = await stampOf(path).catch((error: unknown) => {
      throw new UsageError(`--token-file '${path}' cannot be read: ${messageOf(error)}.`);
    });
    return new Tokens(path, await readTokens(path, log), seen, log);
  }

  /** Returns the id of the token that the header of a request shows. Throws `unauthorized` unless it is one of ours. */
  async check(what: string, authorization: string | undefined): Promise<string> {
    await this.reload();
    const shown = tokenIn(authorization);
    if (shown === undefined) {
      throw new ApiError('unauthorized', `${what}: the request has no bearer token.`, { hint: NO_TOKEN_HINT });
    }
    const digest = digestOf(shown);
    if (!this.#knows(digest))
      throw new ApiError('unauthorized', `${what}: the bearer token is not one of the controller's.`);
    return digest.toString('hex').slice(0, ID_DIGITS);
  }

  /** True if the header of a request shows one of our tokens. */
  async has(authorization: string | undefined): Promise<boolean> {
    await this.reload();
    const shown = tokenIn(authorization);
    return shown !== undefined && this.#knows(digestOf(shown));
  }

  /** Compares with every token, even after a match, so that the time taken reveals nothing. */
  #knows(digest: Buffer): boolean {
    return this.#digests.filter((known) => timingSafeEqual(known, digest)).length > 0;
  }

  /** A wrong file after a change leaves the earlier tokens in force, so that its author is not locked out. */
  async reload(): Promise<void> {
    const seen = await stampOf(this.#path).catch(() => 'gone');
    if (seen === this.#seen) return;
    this.#seen = seen;
    try {
      this.#digests = await readTokens(this.#path, this.#log);
      this.#log.info({ tokens: this.#digests.length }, 'read the token file again');
    } catch (error) {
      this.#log.error({ reason: messageOf(error) }, 'the token file has changed and is wrong: the earlier tokens stay');
    }
  }
}

function tokenIn(authorization: string | undefined): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(authorization ?? '')?.[1];
}

async function stampOf(path: string): Promise<string> {
  const { ino, size, mtimeNs } = await stat(path, { bigint: true });
  return `${ino}:${size}:${mtimeNs}`;
}

async function readTokens(path: string, log: Logger): Promise<Buffer[]> {
  const refuse = (why: string) => new UsageError(`--token-file '${path}' ${why}.`);
  const { size, mode } = await stat(path).catch((error: unknown) => {
    throw refuse(`cannot be read: ${messageOf(error)}`);
  });
  if (size > FILE_BYTES_MAX) throw refuse(`has ${size} bytes, and a list of tokens has at most ${FILE_BYTES_MAX}`);
  if ((mode & 0o022) !== 0) throw refuse('can be written by others than its owner; chmod 600 mends that');
  const lines = (await readFile(path, 'utf8')).split('\n').map((line) => line.trim());
  const tokens = lines.filter((line) => line !== '' && !line.startsWith('#'));
  if (tokens.length === 0) throw refuse('has no token in it');
  for (const token of tokens) {
    if (placeholder.test(token)) throw refuse('still has a placeholder where a token belongs');
    if (/\s/.test(token)) throw refuse('has a token with a space in it');
    if (Buffer.byteLength(token) < limits.tokenBytesMin) {
      throw refuse(`has a token of less than ${limits.tokenBytesMin} bytes, which could be guessed`);
    }
  }
  // Files that were made for older daemons have the mode of any other file.
  if ((mode & 0o044) !== 0)
    log.warn({ path }, 'the token file can be read by others than its owner; chmod 600 mends that');
  return tokens.map(digestOf);
}

/** Digests have equal lengths, as the comparison requires, and keep the tokens themselves out of memory. */
function digestOf(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
