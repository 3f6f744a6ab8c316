import { messageOf } from '@forkd/api/constants';
import { requireBuilt as requireAll } from '@forkd/testing';
import { BenchError } from './errors.ts';

/** Throws if a program that the guests need has not been built. */
export async function requireBuilt(): Promise<void> {
  try {
    await requireAll();
  } catch (cause) {
    throw new BenchError(messageOf(cause), '`npm run bench -- --quick` builds it too.', { cause });
  }
}
