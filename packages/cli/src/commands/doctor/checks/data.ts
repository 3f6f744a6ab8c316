import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { open, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { formatBytes } from '../../../output/text.ts';
import { cachedKernel } from '../cached-kernel.ts';
import type { Check } from '../check.ts';
import type { Facts } from '../facts.ts';
import { findProgram } from '../programs.ts';
import { command, fail, pass, skip, warn, type Finding } from '../row.ts';

/** The approximate space for an image of the python recipe and its build. */
const FREE_BYTES_WARN = 2 * 1024 ** 3;
const FREE_BYTES_FAIL = 256 * 1024 ** 2;
/** The magic number of every x86 boot image. */
const MAGIC = { offset: 0x202, text: 'HdrS' } as const;

export const dataChecks: readonly Check[] = [
  { id: 'kernel_image', look: onThisHost(kernelImage) },
  { id: 'snapshot_dir', look: onThisHost(snapshotDir) },
  { id: 'free_space', look: onThisHost(freeSpace) },
];

/** The data directory of a controller on another machine cannot be seen from here. */
function onThisHost(look: (facts: Facts) => Promise<Finding>): Check['look'] {
  return async (facts) => {
    if (!(await facts.isElsewhere())) return look(facts);
    return skip("it is on the controller's machine", '`forkd doctor` on that machine looks at it');
  };
}

async function kernelImage(facts: Facts): Promise<Finding> {
  const cacheDir = join(await facts.dataDir(), 'cache');
  const kernel = await cachedKernel(cacheDir);
  if (kernel === undefined) {
    if ((await findProgram('apt-get', facts.env)) !== undefined) {
      return skip('none is fetched yet', 'the first template fetches it from the distribution');
    }
    return warn(
      'none is fetched, and there is no apt-get to fetch one',
      'no template can be made without naming a kernel: give one with --kernel FILE; snapshots that exist can be forked',
    );
  }
  if (await isBootImage(kernel.vmlinuz)) return pass(kernel.vmlinuz);
  const home = dirname(kernel.vmlinuz);
  // Only a kernel that was fetched into the cache is offered for removal.
  const isFetched = dirname(home) === join(cacheDir, 'kernels');
  return warn(
    `${kernel.vmlinuz} is not a boot image`,
    'no template can be made with it; once it is removed the next one fetches it anew; snapshots can be forked',
    isFetched ? command('rm', '-r', home) : null,
  );
}

async function isBootImage(file: string): Promise<boolean> {
  const handle = await open(file);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(4), 0, 4, MAGIC.offset);
    return buffer.toString('latin1', 0, bytesRead) === MAGIC.text;
  } finally {
    await handle.close();
  }
}

async function snapshotDir(facts: Facts): Promise<Finding> {
  const directory = await facts.dataDir();
  const existing = nearestExisting(directory);
  const detail = existing === directory ? directory : `${directory} (will be made)`;
  const hint = 'no snapshot can be kept there: choose another place with --data-dir or FORKD_DATA_DIR';
  if (!statSync(existing).isDirectory()) return fail(`${existing} is not a directory`, hint);
  try {
    accessSync(existing, constants.W_OK | constants.X_OK);
    return pass(detail);
  } catch (error) {
    const isReadOnly = (error as NodeJS.ErrnoException).code === 'EROFS';
    return fail(`${detail} ${isReadOnly ? 'is on a read-only file system' : 'may not be written to'}`, hint);
  }
}

async function freeSpace(facts: Facts): Promise<Finding> {
  const { bavail, bsize } = await statfs(nearestExisting(await facts.dataDir()));
  const freeBytes = bavail * bsize;
  const detail = `${formatBytes(freeBytes)} free`;
  const mend = 'remove snapshots with forkd rmi TAG, or choose another place with --data-dir';
  if (freeBytes < FREE_BYTES_FAIL) {
    return fail(detail, `neither templates nor branches can be kept; forks of what is there work; ${mend}`);
  }
  if (freeBytes >= FREE_BYTES_WARN) return pass(detail);
  return warn(detail, `a large image may not fit while it is built; small ones and branches work; ${mend}`);
}

function nearestExisting(directory: string): string {
  let current = directory;
  while (!existsSync(current)) current = dirname(current);
  return current;
}
