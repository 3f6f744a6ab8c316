import type { Check } from '../check.ts';
import type { Facts } from '../facts.ts';
import { findProgram, runProgram } from '../programs.ts';
import { aptInstall, pass, skip, warn, type Finding } from '../row.ts';

/** The programs that make images, the Debian package of each, and the images that need it. */
const imageTools = [
  { program: 'mkfs.erofs', package: 'erofs-utils', use: 'any image' },
  { program: 'mkfs.ext4', package: 'e2fsprogs', use: 'templates with a disk' },
  { program: 'mmdebstrap', package: 'mmdebstrap', use: 'the recipes python and debian' },
  { program: 'busybox', package: 'busybox-static', use: 'the recipe busybox' },
  { program: 'skopeo', package: 'skopeo', use: 'registries and archives' },
  { program: 'tar', package: 'tar', use: 'container images' },
  { program: 'zstd', package: 'zstd', use: 'compressed layers' },
  { program: 'xz', package: 'xz-utils', use: 'kernels with compressed modules' },
  { program: 'apt-get', package: 'apt', use: 'the guest kernel' },
  { program: 'dpkg', package: 'dpkg', use: 'the guest kernel' },
] as const;

/** The Debian packages that forkd uses, as the set-up of a checkout installs them. */
const packages = [
  'qemu-system-x86',
  'mmdebstrap',
  'erofs-utils',
  'e2fsprogs',
  'zstd',
  'cpio',
  'skopeo',
  'busybox-static',
] as const;

export const toolChecks: readonly Check[] = [
  { id: 'image_tools', look: tools },
  { id: 'packages', look: debianPackages },
];

async function tools({ env }: Facts): Promise<Finding> {
  const found = await Promise.all(imageTools.map((tool) => findProgram(tool.program, env)));
  const missing = imageTools.filter((_, index) => found[index] === undefined);
  if (missing.length === 0) return pass(imageTools.map((tool) => tool.program).join(', '));
  return warn(
    `missing: ${missing.map((tool) => `${tool.program} (${tool.use})`).join(', ')}`,
    'images that need them cannot be made; snapshots that exist can be forked and branched',
    aptInstall([...new Set(missing.map((tool) => tool.package))]),
  );
}

async function debianPackages({ env, signal }: Facts): Promise<Finding> {
  if ((await findProgram('dpkg-query', env)) === undefined) {
    return skip(
      'there is no dpkg-query: this is not Debian',
      'the rows engine_binary and image_tools say what is there',
    );
  }
  const args = ['-W', '-f', '${Package} ${db:Status-Abbrev}\n', ...packages];
  const { stdout } = await runProgram('dpkg-query', args, { env, signal });
  const installed = new Set(
    stdout
      .split('\n')
      .map((line) => line.split(' '))
      .filter(([, status]) => status === 'ii')
      .map(([name]) => name),
  );
  const missing = packages.filter((name) => !installed.has(name));
  if (missing.length === 0) return pass(packages.join(' '));
  return warn(
    `not installed: ${missing.join(' ')}`,
    'what they bring may be there from elsewhere, as engine_binary and image_tools say; this installs all of them',
    aptInstall(missing),
  );
}
