import { randomBytes } from 'node:crypto';
import { readCapped, writeFileAtomic } from '@forkd/store';

const SECRET_BYTES = 32;

class TooLong extends Error {}

/** The secret in a file that only the owner can read. A file that has none of this length gets a new one, for later controllers, too. */
export async function openSecret(path: string): Promise<Uint8Array> {
  const found = await readCapped(path, SECRET_BYTES, () => new TooLong()).catch((error: unknown) => {
    if (error instanceof TooLong) return null;
    throw error;
  });
  if (found?.length === SECRET_BYTES) return found;
  const secret = randomBytes(SECRET_BYTES);
  await writeFileAtomic(path, secret, { mode: 0o600 });
  return secret;
}
