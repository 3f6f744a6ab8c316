import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';

/** The exit code of the launcher when another process holds the lock. */
const ANOTHER_HOLDS = 75;

/**
 * Takes the exclusive lock of a file (flock), and makes the file if it is missing. Returns the handle that holds the lock
 * until it is closed or this process ends; `null` if another process holds it. Node has no call for it, so the launcher
 * makes the call on a file that this process has open: the kernel ties the lock to the open file, which is not inherited.
 */
export async function lockFile(launcher: string, path: string): Promise<FileHandle | null> {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
  const file = await open(path, flags, 0o600);
  try {
    const child = spawn(launcher, ['lock'], { stdio: [file.fd, 'ignore', 'pipe'] });
    let said = '';
    child.stderr?.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(0, 1024)));
    const [code] = (await once(child, 'close')) as [number | null];
    if (code === 0) return file;
    if (code !== ANOTHER_HOLDS)
      throw new Error(`${path} cannot be locked: ${said.trim() || `${launcher} ended with ${code}`}`);
  } catch (error) {
    await file.close();
    throw error;
  }
  await file.close();
  return null;
}
