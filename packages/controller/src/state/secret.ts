import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { errnoOf, writeFileAtomic } from '@forkd/store';

const SECRET_BYTES = 32;

/** The secret in a file that only the owner can read. It is made on first use, and stays the same for later controllers. */
export async function openSecret(path: string): Promise<Uint8Array> {
  try {
    const secret = await readFile(path);
    if (secret.length === SECRET_BYTES) return secret;
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  const secret = randomBytes(SECRET_BYTES);
  await writeFileAtomic(path, secret, { mode: 0o600 });
  return secret;
}
