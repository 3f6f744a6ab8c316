import { access } from 'node:fs/promises';
import { join } from 'node:path';

export const REPO = join(import.meta.dirname, '../../..');

/** Where slow things that tests make are kept between runs: kernels, initramfs, root images. */
export const TEST_CACHE = process.env['FORKD_TEST_CACHE'] ?? join(REPO, '.cache/test');

const GUEST = join(REPO, 'target/guest/x86_64-unknown-linux-gnu/release');

/** What the build has made. */
export const BUILT = {
  pager: join(REPO, 'target/release/forkd-pager'),
  shim: join(REPO, 'target/release/libforkd_shim.so'),
  jail: join(REPO, 'target/release/forkd-jail'),
  deny: join(REPO, 'target/release/forkd-deny'),
  firecrackerStandIn: join(REPO, 'target/release/forkd-firecracker-stand-in'),
  agent: join(GUEST, 'forkd-agent'),
  storm: join(GUEST, 'forkd-storm'),
} as const;

/** Fails, naming the command that builds it, when something is not there: a test that cannot run must not pass. */
export async function requireBuilt(): Promise<void> {
  for (const path of Object.values(BUILT)) {
    await access(path).catch(() => {
      throw new Error(`${path} is missing: run "npm test" or "npm run quickstart", which build it`);
    });
  }
}
