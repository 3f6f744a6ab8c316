import { ApiError, memBytesOf, type SnapshotInfo } from '@forkd/api';
import { asDigest, type Blob } from '@forkd/store';
import { withDeadline } from '../deadline.ts';
import { limits } from '../limits.ts';
import { machineFor } from '../runtime/engines.ts';
import type { Host } from './host.ts';
import { newFacts } from './new-facts.ts';

/**
 * Writes a snapshot again with a single layer of memory, and one of its disk. The new snapshot needs no ancestors, so they can be removed. The old
 * snapshot stays as it is.
 */
export async function compact(host: Host, tag: string, to: string, signal: AbortSignal): Promise<SnapshotInfo> {
  const { catalog, pins, vmm, disks, housekeeping, log } = host;
  if (tag === to) throw new ApiError('bad_request', `Snapshot '${tag}' cannot be compacted to itself.`);
  await catalog.settled(tag);
  const source = await catalog.forkSource(tag);
  if (source.digest === null) {
    throw new ApiError('not_forkable', `Snapshot '${tag}' is not on disk yet: only one that is can be compacted.`);
  }
  const { stack, deviceState, rootDisk, disk } = source;
  const unpin = pins.hold([...stack, ...disk, deviceState.digest, rootDisk.digest]);
  try {
    const { pager, engine } = await vmm.use(signal);
    const machine = machineFor(engine, tag, source.machine);
    const facts = newFacts(to, { ...source, machine });
    const info = await catalog.make(facts, { context: `Snapshot '${tag}' to '${to}'`, signal }, async () => {
      const late = () => new ApiError('engine_failed', `It was not done within ${limits.branchTimeoutMs / 1000} s.`);
      const blobOf = ({ digest, size }: { digest: string; size: number }): Blob => ({ digest: asDigest(digest), size });
      return withDeadline(limits.branchTimeoutMs, signal, late, async () => {
        const memory = [blobOf(await pager.flatten(memBytesOf(machine), stack))];
        const merged = disk.length === 0 ? [] : [blobOf(await (await disks.find()).merge(disk))];
        return { memory, deviceState, rootDisk, disk: merged };
      });
    });
    log.info({ tag, to, layers: stack.length }, 'compacted');
    return info;
  } finally {
    unpin();
    housekeeping.request();
  }
}
