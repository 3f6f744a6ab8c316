import type { Capabilities } from '../types.ts';

/** Why an engine that was started without a network process gives no guest a network. */
export const NETWORK_UNAVAILABLE = 'The program forkd-net, which is the network of guests, is not there.';

/** Facts that decide QEMU's capabilities. */
export interface QemuHost {
  /** Why the pager cannot branch live; `null` where it can. */
  liveUnavailable: string | null;
  /** Why memory cannot be limited; `null` where it can. */
  limitUnavailable: string | null;
  /** Why guests have no network; `null` where they can. */
  networkUnavailable: string | null;
  /** VMMs may wait for their VM. */
  pooled: boolean;
  /** Why the pauses of live branches are not conducted inside QEMU; `null` where they are. */
  insideUnavailable: string | null;
  /** True if there is a disk server. */
  disks: boolean;
}

export function qemuCapabilities({
  liveUnavailable,
  limitUnavailable,
  networkUnavailable,
  pooled,
  insideUnavailable,
  disks,
}: QemuHost): Capabilities {
  return {
    full: true,
    diff: true,
    live: liveUnavailable === null || `Live branches cannot be had here: ${liveUnavailable}.`,
    pause: true,
    memory_limit: limitUnavailable ?? true,
    network: networkUnavailable ?? true,
    pool: pooled || 'The pool may hold no VMMs, as it was configured.',
    floor: true,
    window_inside: insideUnavailable ?? true,
    disk: disks || 'There is no disk server.',
  };
}
