import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { KernelFiles } from '@forkd/engine';
import { ensureInitramfs, ensureKernel } from '@forkd/images';
import { writeFileAtomic } from '@forkd/store';
import { type Binaries, requireBinary } from '../binaries.ts';

interface KernelRequest {
  /** A kernel that the user provides. */
  kernelFile?: string;
  /** True if the guest has a disk to which it writes. */
  disk: boolean;
  /** True: the guest has a network device. */
  network: boolean;
  signal: AbortSignal;
  onProgress?: (line: string) => void;
}

/** The files that a guest is booted with: a kernel, and an initramfs with the agent in it. */
export class GuestBoot {
  readonly #cacheDir: string;
  readonly #binaries: Binaries;
  readonly #vsock: boolean;
  /** The files of the last boot. */
  readonly #note: string;

  /** `vsock`: guests reach the host through a vsock device. */
  constructor(cacheDir: string, binaries: Binaries, { vsock }: { vsock: boolean }) {
    this.#cacheDir = cacheDir;
    this.#binaries = binaries;
    this.#vsock = vsock;
    this.#note = join(cacheDir, 'guest-boot.json');
  }

  async files({ kernelFile, disk, network, signal, onProgress }: KernelRequest): Promise<KernelFiles> {
    const agentBinary = await requireBinary(this.#binaries, 'agent');
    const cacheDir = this.#cacheDir;
    const kernel = await ensureKernel({
      cacheDir,
      signal,
      ...(kernelFile !== undefined && { kernelFile }),
      ...(onProgress !== undefined && { onProgress }),
    });
    const initramfs = await ensureInitramfs({
      cacheDir,
      kernel,
      agentBinary,
      vsock: this.#vsock,
      disk,
      network,
      signal,
    });
    const files = { vmlinuz: kernel.vmlinuz, initramfs };
    if (kernelFile === undefined) await writeFileAtomic(this.#note, JSON.stringify(files));
    return files;
  }

  /** The files that were booted last, if they are still there. Fetches nothing: the caller may only ask about the host. */
  async known(): Promise<KernelFiles | null> {
    try {
      const files = JSON.parse(await readFile(this.#note, 'utf8')) as Partial<KernelFiles>;
      const { vmlinuz, initramfs } = files;
      if (vmlinuz === undefined || initramfs === undefined) return null;
      await Promise.all([access(vmlinuz), access(initramfs)]);
      return { vmlinuz, initramfs };
    } catch {
      return null;
    }
  }
}
