import type { Capabilities } from '../types.ts';
import type { Features } from './features.ts';
import { withoutLive } from './live.ts';

/** Facts that decide Firecracker's capabilities. */
export interface FirecrackerHost {
  features: Pick<Features, 'version' | 'sharedMemory' | 'vmstateOnly' | 'writeProtect'>;
  /** The result of asking a VM for its memory before it runs: `true`, or a sentence. */
  handover: true | string;
  /** Why memory cannot be limited; `null` where it can. */
  limitUnavailable: string | null;
  /** Whether VMMs are started by the jailer. */
  jailed: boolean;
}

export function firecrackerCapabilities(host: FirecrackerHost): Capabilities {
  const { limitUnavailable } = host;
  const why = liveUnavailable(host);
  return {
    full: true,
    diff: true,
    pause: true,
    memory_limit: limitUnavailable ?? true,
    network: 'A guest of Firecracker has no network device.',
    pool: 'Each restore starts a Firecracker of its own.',
    window_inside: 'The pager pauses a Firecracker over its API.',
    disk: 'Firecracker can use no disk of a server: files that its guests write are kept in their memory.',
    ...(why === null ? { live: true, floor: true } : withoutLive(why)),
  };
}

/** Why there are no live branches; `null` where there are. */
function liveUnavailable({ features, handover, jailed }: FirecrackerHost): string | null {
  const needed: [string, boolean][] = [
    ['mem_backend.shared', features.sharedMemory],
    ['VmstateOnly', features.vmstateOnly],
    ['PUT /uffd/wp', features.writeProtect],
  ];
  const missing = needed.filter(([, has]) => !has).map(([name]) => name);
  if (missing.length > 0) {
    const names = [missing.slice(0, -1).join(', '), missing.at(-1)].filter(Boolean).join(' and ');
    return `Firecracker ${features.version} has no live branches: this build lacks ${names}.`;
  }
  if (!jailed) return handover === true ? null : `Firecracker ${features.version} has no live branches: ${handover}`;
  return 'A jailed Firecracker has no live branches: in its root there is no memory to share with the pager. Without a jailer on PATH it has.';
}
