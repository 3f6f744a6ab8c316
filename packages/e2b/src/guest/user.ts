import { posix } from 'node:path';
import type { FastifyRequest } from 'fastify';
import { ConnectError } from '../errors.ts';
import type { Account } from './accounts.ts';
import type { GuestMemory } from './memory.ts';

/** The user that a request names as an HTTP user without a password. */
export function userNameOf({ headers }: FastifyRequest): string | undefined {
  const encoded = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(headers.authorization ?? '')?.[1];
  if (encoded === undefined) return undefined;
  return Buffer.from(encoded, 'base64').toString('utf8').split(':')[0] || undefined;
}

/** The user of the guest for whom a request acts. Throws `unauthenticated` if the guest has no such user. */
export async function accountFor(memory: GuestMemory, name: string | undefined, signal: AbortSignal): Promise<Account> {
  const accounts = await memory.accounts(signal);
  if (name === undefined) return accounts.standard;
  const account = accounts.named(name) ?? (await memory.newAccounts(signal)).named(name);
  if (account !== undefined) return account;
  throw new ConnectError('unauthenticated', `The sandbox has no user '${name}'.`);
}

/** An absolute path. A relative one, and one that begins with `~`, starts at the home of the user. */
export function absolutePath(path: string, { home }: Account): string {
  if (path.includes('\0')) throw new ConnectError('invalid_argument', 'A path has no NUL byte.');
  const rest = path === '~' || path.startsWith('~/') ? path.slice(2) : path;
  return posix.resolve(home, rest);
}
