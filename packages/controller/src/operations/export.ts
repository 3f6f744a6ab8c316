import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { copyFile, lstat, mkdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ApiError, type ExportSnapshotRequest, type ExportSnapshotResponse, memBytesOf } from '@forkd/api';
import type { Pager } from '@forkd/engine';
import { errnoOf, writeFileAtomic, type MachineRecord } from '@forkd/store';
import { withDeadline } from '../deadline.ts';
import { withContext } from '../errors.ts';
import { limits } from '../limits.ts';
import type { ForkSource } from '../state/catalog.ts';
import { fileProblem, FILES, hostPath, type Description } from './firecracker-files.ts';
import type { Host } from './host.ts';

/** Writes a snapshot as the files that Firecracker itself writes and loads. The directory gets its name when it is whole. */
export async function exportSnapshot(
  host: Host,
  tag: string,
  request: ExportSnapshotRequest,
  signal: AbortSignal,
): Promise<ExportSnapshotResponse> {
  await host.catalog.settled(tag);
  const source = await host.catalog.forkSource(tag);
  assertFirecrackers(source);
  if (source.digest === null) {
    throw new ApiError('not_forkable', `Snapshot '${tag}' is not on disk yet: only one that is can be exported.`);
  }
  const dir = hostPath(request.dir);
  await assertFree(dir);
  const unpin = host.pins.hold([...source.stack, source.deviceState.digest, source.rootDisk.digest]);
  const draft = `${dir}.partial-${randomBytes(6).toString('hex')}`;
  try {
    const { pager } = await host.vmm.use(signal);
    await mkdir(draft, { mode: 0o700 });
    await fill(host, draft, source, pager, signal);
    const sizes = await sizesOf(draft);
    await rename(draft, dir);
    host.log.info({ tag, dir, ...sizes }, 'exported');
    return { tag, format: request.format, dir, ...sizes };
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    throw withContext(`Snapshot '${tag}' to ${dir}`, problemOf(dir, signal.aborted ? signal.reason : error));
  } finally {
    unpin();
  }
}

async function fill(
  { store }: Host,
  draft: string,
  source: ForkSource,
  pager: Pager,
  signal: AbortSignal,
): Promise<void> {
  const { machine, stack, deviceState, rootDisk, image, python, refresh, safety } = source;
  for (const { digest } of [deviceState, rootDisk]) await store.verifyOnce(digest, signal);
  const late = () => new ApiError('engine_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
  const written = pager.exportMemory(memBytesOf(machine), stack, join(draft, FILES.memory));
  try {
    await withDeadline(limits.branchTimeoutMs, signal, late, () => written);
  } catch (error) {
    // The pager cannot be stopped. Until it is done it would put a file into the directory that is removed.
    await written.catch(() => undefined);
    throw error;
  }
  for (const [blob, name] of [
    [deviceState, FILES.vmstate],
    [rootDisk, FILES.rootImage],
  ] as const) {
    await copyFile(store.blobPath(blob.digest), join(draft, name), constants.COPYFILE_FICLONE);
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
    refresh,
    safety,
  };
  await writeFileAtomic(join(draft, FILES.description), `${JSON.stringify(description, null, 2)}\n`);
}

function assertFirecrackers({ tag, machine }: { tag: string; machine: MachineRecord }): void {
  if (machine.engine === 'firecracker') return;
  const sentence = `Snapshot '${tag}' was taken with ${machine.engine}, whose device state Firecracker cannot load.`;
  throw new ApiError('unsupported', sentence, {
    hint: 'Make the template again with a controller that was started with --engine firecracker.',
  });
}

async function assertFree(dir: string): Promise<void> {
  const found = await lstat(dir).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return null;
    throw fileProblem(`The directory ${dir} cannot be looked at`, error);
  });
  if (found !== null) throw new ApiError('target_exists', `There is something at ${dir} already.`);
}

/** A directory that appears meanwhile is refused as one that was there before. */
function problemOf(dir: string, error: unknown): unknown {
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
