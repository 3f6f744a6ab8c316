import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isStaticExecutable } from './elf.ts';
import { ImageError, isErrno } from './errors.ts';
import { sha256, writeFileAtomic } from './files.ts';
import type { Kernel } from './kernel.ts';
import { type GuestDevices, loadModules } from './modules.ts';
import { writeNewc, type NewcEntry } from './newc.ts';
import { holds } from './verified.ts';

/** The modules of the devices are in the initramfs. */
export interface EnsureInitramfsOptions extends GuestDevices {
  readonly cacheDir: string;
  readonly kernel: Kernel;
  /** The guest agent, a static x86-64 executable: it becomes PID 1. */
  readonly agentBinary: string;
  readonly signal?: AbortSignal;
}

/**
 * The path of an initramfs with the agent as `/init`, the kernel's modules, and `/forkd/modules`, which lists the
 * modules' paths in the order of loading.
 *
 * The file is named by the digest of its content, so it changes exactly when the agent or the kernel does.
 */
export async function ensureInitramfs(options: EnsureInitramfsOptions): Promise<string> {
  const { cacheDir, kernel, agentBinary, vsock = false, disk = false, network = false, signal } = options;
  const agent = await readAgent(agentBinary, signal);
  const modules =
    kernel.modulesDir === null ? [] : await loadModules(kernel.modulesDir, { vsock, disk, network, signal });
  const files = modules.map(({ name, data }) => ({ name: `forkd/ko/${name}.ko`, data }));
  const list = files.map(({ name }) => `/${name}\n`).join('');
  const entries: NewcEntry[] = [
    { name: 'init', data: agent, mode: 0o755 },
    { name: 'forkd' },
    { name: 'forkd/modules', data: Buffer.from(list) },
    { name: 'forkd/ko' },
    ...files,
  ];
  // Not compressed: the emulated CPU takes longer to unpack than the host takes to copy a few megabytes.
  const archive = writeNewc(entries);
  const digest = sha256(archive);
  const file = join(cacheDir, 'initramfs', `${digest.replace(':', '-')}.cpio`);
  if (!(await holds(file, digest, signal))) await writeFileAtomic(file, archive);
  return file;
}

async function readAgent(agentBinary: string, signal: AbortSignal | undefined): Promise<Buffer> {
  const agent = await readFile(agentBinary, { signal }).catch((error: unknown) => {
    if (!isErrno(error, 'ENOENT', 'EISDIR')) throw error;
    throw new ImageError('bad_agent', `The guest agent ${agentBinary} is not there.`, {
      hint: 'Build it: npm run quickstart builds everything, the agent too.',
      cause: error,
    });
  });
  if (isStaticExecutable(agent)) return agent;
  throw new ImageError(
    'bad_agent',
    `The guest agent ${agentBinary} is not a static x86-64 executable, so it cannot be PID 1 of a guest.`,
    { hint: "Build it with RUSTFLAGS='-C target-feature=+crt-static' and an explicit --target." },
  );
}
