import { readFile, readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { moduleInfo } from './elf.ts';
import { ImageError } from './errors.ts';
import { run } from './run.ts';

export interface KernelModule {
  /** The kernel's spelling: underscores, no extension. */
  readonly name: string;
  readonly data: Buffer;
}

/** Modules that the guest needs, in loading order. Their dependencies are loaded before them. */
const WANTED: readonly { readonly name: string; readonly optional?: boolean }[] = [
  { name: 'virtio' },
  { name: 'virtio_ring' },
  { name: 'virtio_mmio' },
  { name: 'virtio_console' },
  { name: 'virtio_blk' },
  { name: 'virtio_rng' },
  // erofs asks the kernel's crypto for "crc32c" by name, which no dependency in the module says.
  { name: 'crc32c_generic', optional: true },
  { name: 'erofs' },
  { name: 'overlay' },
];

/** The device through which a guest of Firecracker's is reached. */
const VSOCK: typeof WANTED = [{ name: 'vmw_vsock_virtio_transport' }];

const NETWORK: typeof WANTED = [{ name: 'virtio_net' }];

/** The file system of a guest's own disk. */
const DISK: typeof WANTED = [{ name: 'ext4' }];

/** The devices of a guest that not every guest has. */
export interface GuestDevices {
  /** A guest of Firecracker's has no other way to its host. */
  readonly vsock?: boolean;
  /** A disk to which the guest writes. */
  readonly disk?: boolean;
  readonly network?: boolean;
}

/** The guest's modules with all that they depend on, in the order of loading. Built-in ones are left out. */
export async function loadModules(
  modulesDir: string,
  { vsock = false, disk = false, network = false, signal }: GuestDevices & { signal?: AbortSignal | undefined } = {},
): Promise<KernelModule[]> {
  const files = await moduleFiles(modulesDir);
  const builtIn = await builtInModules(modulesDir);
  const ordered = new Map<string, KernelModule>();
  const visit = async (name: string, optional: boolean): Promise<void> => {
    if (ordered.has(name) || builtIn.has(name)) return;
    const file = files.get(name);
    if (file === undefined) {
      if (optional) return;
      throw missingModule(name, modulesDir);
    }
    const data = await readModule(file, signal);
    const depends = moduleInfo(data, 'depends').flatMap((list) => list.split(','));
    for (const dependency of depends.filter((entry) => entry !== '')) await visit(spell(dependency), false);
    ordered.set(name, { name, data });
  };
  const wanted = [...WANTED, ...(vsock ? VSOCK : []), ...(disk ? DISK : []), ...(network ? NETWORK : [])];
  for (const { name, optional = false } of wanted) await visit(name, optional);
  return [...ordered.values()];
}

async function moduleFiles(modulesDir: string): Promise<Map<string, string>> {
  const names = await readdir(join(modulesDir, 'kernel'), { recursive: true });
  const isModule = (name: string) => /\.ko(\.(gz|xz|zst))?$/.test(name);
  return new Map(names.filter(isModule).map((name) => [nameOf(name), join(modulesDir, 'kernel', name)]));
}

async function builtInModules(modulesDir: string): Promise<Set<string>> {
  const list = await readFile(join(modulesDir, 'modules.builtin'), 'utf8');
  return new Set(list.split('\n').filter(Boolean).map(nameOf));
}

function nameOf(file: string): string {
  return spell(basename(file).replace(/\.ko(\.\w+)?$/, ''));
}

/** Dashes and underscores are the same in a module's name. */
function spell(name: string): string {
  return name.replaceAll('-', '_');
}

/** The kernel's own loader reads no compressed modules unless it was built to: the guest gets plain ones. */
async function readModule(file: string, signal: AbortSignal | undefined): Promise<Buffer> {
  if (file.endsWith('.xz')) return run('xz', ['-dc', file], { signal });
  if (file.endsWith('.zst')) return run('zstd', ['-dcq', file], { signal });
  const data = await readFile(file, { signal });
  return file.endsWith('.gz') ? gunzipSync(data) : data;
}

function missingModule(name: string, modulesDir: string): ImageError {
  return new ImageError(
    'bad_kernel',
    `The kernel whose modules are in ${modulesDir} has no ${name}, neither as a module nor built in.`,
    {
      hint: "Use Debian's cloud kernel (the default), or a kernel of your own with virtio, erofs and overlayfs built in.",
    },
  );
}
