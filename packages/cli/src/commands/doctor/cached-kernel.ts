import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface CachedKernel {
  vmlinuz: string;
  initramfs: string;
}

/** The kernel and initramfs of the last boot, as the controller recorded them in its cache, if the files still exist. */
export async function cachedKernel(cacheDir: string): Promise<CachedKernel | undefined> {
  try {
    const note = await readFile(join(cacheDir, 'guest-boot.json'), 'utf8');
    const { vmlinuz, initramfs } = JSON.parse(note) as Partial<CachedKernel>;
    if (vmlinuz === undefined || initramfs === undefined) return undefined;
    await Promise.all([access(vmlinuz), access(initramfs)]);
    return { vmlinuz, initramfs };
  } catch {
    return undefined;
  }
}
