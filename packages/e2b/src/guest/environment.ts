import type { Account } from './accounts.ts';
import type { GuestMemory, Variables } from './memory.ts';

/** The variables of every command of a user, above those of the image. */
export async function environmentOf(
  memory: GuestMemory,
  account: Account,
  signal: AbortSignal,
): Promise<Record<string, string>> {
  const variables: Variables = await memory.variables(signal);
  return { LOGNAME: account.name, ...variables };
}
