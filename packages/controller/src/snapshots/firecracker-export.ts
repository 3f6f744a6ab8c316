import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { copyFile, lstat, mkdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';

import type { ExportSnapshotRequest, ExportSnapshotResponse } from '@forkd/api';
import { ApiError } from '@forkd/api';
import type { Pager } from '@forkd/engine';
import type { MachineRecord, Store } from '@forkd/store';
import { errnoOf, writeFileAtomic } from '@forkd/store';
import type { Logger } from 'pino';

import { withDeadline } from '../deadline.ts';
import { during } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Vmm } from '../runtime/vmm.ts';
import type { Catalog, ForkSource } from './catalog.ts';
import type { Description } from './firecracker-files.ts';
import { fileProblem, FILES, hostPath } from './firecracker-files.ts';
import type { Pins } from './pins.ts';

const mib = 1024 * 1024;

/** Writes snapshots as the files that Firecracker itself writes and loads. */
export class FirecrackerExport {
  readonly #catalog: Catalog;
  readonly #store: Store;
  readonly #pins: Pins;
  readonly #vmm: Pick<Vmm, 'use'>;
  readonly #log: Logger;

  constructor(parts: { catalog: Catalog; store: Store; pins: Pins; vmm: Pick<Vmm, 'use'>; log: Logger }) {
    this.#catalog = parts.catalog;
    this.#store = parts.store;
    this.#pins = parts.pins;
    this.#vmm = parts.vmm;
    this.#log = parts.log;
  }

  /** The directory gets its name when it is whole. */
  async write(tag: string, request: ExportSnapshotRequest, signal: AbortSignal): Promise<ExportSnapshotResponse> {
    const source = await this.#catalog.forkSource(tag);
    assertFirecrackers(source);
    if (source.digest === null) {
      throw new ApiError('not_forkable', `Snapshot '${tag}' is not on disk yet: only one that is can be exported.`);
    }
    const dir = hostPath(request.dir);
    await assertFree(dir);
    const unpin = this.#pins.hold([...source.stack, source.deviceState.digest, source.rootDisk.digest]);
    const draft = `${dir}.partial-${randomBytes(6).toString('hex')}`;
    try {
      const { pager } = await this.#vmm.use(signal);
      await mkdir(draft, { mode: 0o700 });
      await this.#fill(draft, source, pager, signal);
      const sizes = await sizesOf(draft);
      await rename(draft, dir);
      this.#log.info({ tag, dir, ...sizes }, 'exported');
      return { tag, format: request.format, dir, ...sizes };
    } catch (error) {
      await rm(draft, { recursive: true, force: true });
      throw during(`Snapshot '${tag}' to ${dir}`, whatIsWrong(dir, signal.aborted ? signal.reason : error));
    } finally {
      unpin();
    }
  }

  async #fill(draft: string, source: ForkSource, pager: Pager, signal: AbortSignal): Promise<void> {
    const { machine, stack, deviceState, rootDisk, image, python } = source;
    for (const { digest } of [deviceState, rootDisk]) await this.#store.verifyOnce(digest, signal);
    const late = () => new ApiError('engine_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
    const written = pager.exportMemory(machine.mem_mib * mib, stack, join(draft, FILES.memory));
    try {
      await withDeadline(limits.branchTimeoutMs, signal, late, () => written);
    } catch (error) {
      // The pager cannot be stopped, and until it has ended it would put a file into what is removed.
      await written.catch(() => undefined);
      throw error;
    }
    for (const [blob, name] of [
      [deviceState, FILES.vmstate],
      [rootDisk, FILES.rootImage],
    ] as const) {
      await copyFile(this.#store.blobPath(blob.digest), join(draft, name), constants.COPYFILE_FICLONE);
      signal.throwIfAborted();
    }
    const description: Description = {
      format: 'forkd-firecracker',
      version: 1,
      machine: machine as Description['machine'],
      vmstate: deviceState,
      root_image: rootDisk,
      image,
      source: source.source,
      python,
    };
    await writeFileAtomic(join(draft, FILES.description), `${JSON.stringify(description, null, 2)}\n`);
  }
}

function assertFirecrackers({ tag, machine }: { tag: string; machine: MachineRecord }): void {
  if (machine.engine === 'firecracker') return;
  const sentence = `Snapshot '${tag}' was taken with ${machine.engine}, whose device state Firecracker cannot load.`;
  throw new ApiError('unsupported', sentence, {
    hint: 'make the template anew with a controller that was started with --engine firecracker',
  });
}

async function assertFree(dir: string): Promise<void> {
  const found = await lstat(dir).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return null;
    throw fileProblem(`The directory ${dir} cannot be looked at`, error);
  });
  if (found !== null) throw new ApiError('target_exists', `There is something at ${dir} already.`);
}

/** One that somebody has made meanwhile is as one that was there before. */
function whatIsWrong(dir: string, error: unknown): unknown {
  if (['EEXIST', 'ENOTEMPTY', 'ENOTDIR'].includes(errnoOf(error) ?? '')) {
    return new ApiError('target_exists', `There is something at ${dir} already.`, { cause: error });
  }
  return fileProblem('It cannot be written', error);
}

async function sizesOf(dir: string) {
  const [memory, vmstate] = await Promise.all([stat(join(dir, FILES.memory)), stat(join(dir, FILES.vmstate))]);
  return {
    memory_logical_bytes: memory.size,
    memory_physical_bytes: memory.blocks * 512,
    vmstate_bytes: vmstate.size,
  };
}
