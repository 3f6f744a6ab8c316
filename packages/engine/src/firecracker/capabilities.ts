import type { Capabilities } from '../types.ts';
import type { Features } from './features.ts';

/** What Firecracker's abilities depend on. */
export interface FirecrackerHost {
  features: Pick<Features, 'version' | 'sharedMemory' | 'vmstateOnly' | 'writeProtect'>;
  /** Why memory cannot be limited; `null` where it can. */
  limitUnavailable: string | null;
}

export function firecrackerCapabilities({ features, limitUnavailable }: FirecrackerHost): Capabilities {
  const extended = features.sharedMemory && features.vmstateOnly && features.writeProtect;
  return {
    full: true,
    diff: true,
    live: extended
      ? 'This Firecracker has what live branches take, and forkd does not make use of it yet.'
      : `Firecracker ${features.version} has no live branches: they take a build with mem_backend.shared, VmstateOnly and PUT /uffd/wp.`,
    pause: true,
    memory_limit: limitUnavailable ?? true,
    pool: 'Each restore starts a Firecracker of its own.',
    floor: 'Firecracker saves no device state without the memory.',
  };
}
