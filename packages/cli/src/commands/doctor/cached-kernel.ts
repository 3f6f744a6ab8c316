import { access, readFile } from 'node:fs/promises';
import path from 'node:path';

export type CachedKernel = { vmlinuz: string; initramfs: string };

/** What guests were last booted with, as the controller has noted it in its cache, if it is still there. */
export async function cachedKernel(cacheDir: string): Promise<CachedKernel | undefined> {
  try {
    const note = await readFile(path.join(cacheDir, 'guest-boot.json'), 'utf8');
    const { vmlinuz, initramfs } = JSON.parse(note) as Partial<CachedKernel>;
    if (vmlinuz === undefined || initramfs === undefined) return undefined;
    await Promise.all([access(vmlinuz), access(initramfs)]);
    return { vmlinuz, initramfs };
  } catch {
    return undefined;
  }
}
