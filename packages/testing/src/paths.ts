import { access } from 'node:fs/promises';
import { join } from 'node:path';

export const REPO = join(import.meta.dirname, '../../..');

/** Directory that keeps slow things of the tests between runs: kernels, initramfs, root images. */
export const TEST_CACHE = process.env['FORKD_TEST_CACHE'] ?? join(REPO, '.cache/test');

const GUEST = join(REPO, 'target/guest/x86_64-unknown-linux-gnu/release');

/** Programs and libraries that the build produces. */
export const BUILT = {
  pager: join(REPO, 'target/release/forkd-pager'),
  disk: join(REPO, 'target/release/forkd-disk'),
  shim: join(REPO, 'target/release/libforkd_shim.so'),
  jail: join(REPO, 'target/release/forkd-jail'),
  net: join(REPO, 'target/release/forkd-net'),
  deny: join(REPO, 'target/release/forkd-deny'),
  firecrackerStandIn: join(REPO, 'target/release/forkd-firecracker-stand-in'),
  vmmStandIn: join(REPO, 'target/release/forkd-vmm-stand-in'),
  payload: join(REPO, 'target/release/forkd-kvm-payload'),
  agent: join(GUEST, 'forkd-agent'),
  storm: join(GUEST, 'forkd-storm'),
  draws: join(GUEST, 'forkd-draws'),
  diskLoad: join(GUEST, 'forkd-disk-load'),
} as const;

/** Fails if a file of the build is missing, and names the command that builds it. A test that cannot run must not pass. */
export async function requireBuilt(): Promise<void> {
  for (const path of Object.values(BUILT)) {
    await access(path).catch(() => {
      throw new Error(`${path} is missing: run "npm test" or "npm run quickstart", which build it`);
    });
  }
}
