import { requireBuilt as requireAll } from '@forkd/lab';
import { BenchError } from './errors.ts';

/** Throws when a program that the guests need has not been built. */
export async function requireBuilt(): Promise<void> {
  try {
    await requireAll();
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new BenchError(message, '`npm run bench -- --quick` builds it too', { cause });
  }
}
