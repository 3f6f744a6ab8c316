import type { Loadable } from '@forkd/engine';
import type { ForkSource } from '../state/catalog.ts';
import type { Host } from './host.ts';

/** The memory and the device state of the children of a snapshot. */
export function loadableOf(store: Host['store'], { stack, deviceState, refresh }: ForkSource): Loadable {
  return { stack, deviceState: store.blobPath(deviceState.digest), refresh: refresh?.entries ?? [] };
}
