import type { Store } from '@forkd/store';
import type { Logger } from 'pino';
import type { Metrics } from '../observe/metrics.ts';
import type { DataPaths } from '../paths.ts';
import type { Disks } from '../runtime/disks.ts';
import type { GuestBoot } from '../runtime/guest-boot.ts';
import type { Network } from '../runtime/network.ts';
import type { Vmm } from '../runtime/vmm.ts';
import type { BranchSlots } from '../state/branch-slots.ts';
import type { BytePool } from '../state/byte-pool.ts';
import type { Catalog } from '../state/catalog.ts';
import type { EventLog } from '../state/events.ts';
import type { FlowLog } from '../state/flow-log.ts';
import type { Housekeeping } from '../state/housekeeping.ts';
import type { Pins } from '../state/pins.ts';
import type { Registry } from '../state/registry.ts';
import type { Replies } from '../state/replies.ts';
import type { Workspaces } from '../state/workspaces.ts';

/** Everything that operations work on. The daemon builds one; each operation is a function with the host as first argument. */
export interface Host {
  catalog: Catalog;
  registry: Registry;
  workspaces: Workspaces;
  branches: BranchSlots;
  store: Store;
  pins: Pins;
  housekeeping: Housekeeping;
  vmm: Pick<Vmm, 'engineOnceUp' | 'pagerIfUp' | 'use'>;
  /** `null` if the network process is not installed. */
  network: Pick<Network, 'dial' | 'mark' | 'setPolicy'> | null;
  /** The latest connections of sandboxes. */
  flows: FlowLog;
  boot: GuestBoot;
  disks: Pick<Disks, 'find' | 'ifUp'>;
  replies: Replies;
  events: EventLog;
  /** Memory for what guests answer, shared by all calls. */
  output: BytePool;
  metrics: Metrics;
  paths: DataPaths;
  log: Logger;
  /** Ends the controller, with the reason for its log. */
  end: (reason: string) => void;
}

/** Runs an operation on the host. Tests of the HTTP side answer in its place. */
export type Run = <Args extends unknown[], Result>(
  operation: (host: Host, ...args: Args) => Result,
  ...args: Args
) => Result;
