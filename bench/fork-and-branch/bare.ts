import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Machine, restoreArguments, waitUntilRunning } from '@forkd/engine';

const PAGE_BYTES = 4096;
const HEADER_BYTES = 40;
const EXTENT_BYTES = 16;

/** What a bare QEMU is restored from: the same VM, its memory in one plain file. */
export interface BareImage {
  machine: Machine;
  memory: string;
  deviceState: string;
  rootImage: string;
}

/** Writes the pages of a base layer (see `crates/pager/src/file.rs`) to a plain, sparse memory file at `path`. */
export async function writeMemoryFile(layer: string, path: string, machine: Machine): Promise<void> {
  const bytes = await readFile(layer);
  const extents = Number(bytes.readBigUInt64LE(24));
  const out = await open(path, 'w');
  try {
    await out.truncate(machine.mem_mib * 2 ** 20);
    let at = Math.ceil((HEADER_BYTES + extents * EXTENT_BYTES) / PAGE_BYTES) * PAGE_BYTES;
    for (let index = 0; index < extents; index += 1) {
      const entry = HEADER_BYTES + index * EXTENT_BYTES;
      const page = Number(bytes.readBigUInt64LE(entry));
      const length = Number(bytes.readBigUInt64LE(entry + 8)) * PAGE_BYTES;
      await out.write(bytes, at, length, page * PAGE_BYTES);
      at += length;
    }
  } finally {
    await out.close();
  }
}

/**
 * Restores with QEMU alone, and returns the ms from the start of the process until the VM runs: no shim, no pager, the
 * memory a private mapping of a plain file in a tmpfs.
 */
export async function bareRestore(image: BareImage): Promise<number> {
  const dir = await mkdtemp('/tmp/fk-bare-');
  const args = restoreArguments(image.machine, image.rootImage).map((argument) =>
    argument.replace(/mem-path=[^,]+/, `mem-path=${image.memory}`),
  );
  const state = await open(image.deviceState, 'r');
  try {
    const start = performance.now();
    const child = spawn('qemu-system-x86_64', args, { cwd: dir, stdio: ['ignore', 'ignore', 'ignore', state.fd] });
    await waitUntilRunning(join(dir, 'monitor.sock'), AbortSignal.timeout(30_000));
    const ms = performance.now() - start;
    child.kill('SIGKILL');
    await once(child, 'exit');
    return ms;
  } finally {
    await state.close();
    await rm(dir, { recursive: true, force: true });
  }
}
