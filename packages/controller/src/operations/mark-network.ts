import type { SnapshotNetwork } from '@forkd/api';
import { messageOf } from '../errors.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { packInherited } from '../state/snapshot-network.ts';
import type { Host } from './host.ts';

/**
 * The network of a snapshot that was taken of a sandbox a moment ago: its policy, and the names and connections that its guest
 * knows. A connection that ended lately is among them, so that the sandbox need not stand still for this. `null` without a
 * network device. Never rejects: without a mark, connections of children end when they are next used.
 */
export async function markNetwork(
  { network, log }: Pick<Host, 'network' | 'log'>,
  { id, record }: Sandbox,
): Promise<SnapshotNetwork | null> {
  const key = record.vm?.networkKey;
  if (key === undefined) return null;
  const policy = record.network ?? {};
  try {
    const inherited = network === null ? null : await packInherited(await network.mark(key));
    if (inherited === null) log.warn({ sandbox: id }, 'the connections of a sandbox are too many for its snapshot');
    return { policy, inherited };
  } catch (error) {
    log.warn({ sandbox: id, reason: messageOf(error) }, 'a snapshot does not know the connections of its sandbox');
    return { policy, inherited: null };
  }
}
