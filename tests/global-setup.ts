/** Gives a test run a directory that its files share, and removes it at the end. */
import { mkdtemp, rm } from 'node:fs/promises';

export default async function setup(): Promise<() => Promise<void>> {
  const dir = await mkdtemp('/tmp/fk-shared-');
  process.env['FORKD_TEST_SHARED'] = dir;
  return () => rm(dir, { recursive: true, force: true });
}
