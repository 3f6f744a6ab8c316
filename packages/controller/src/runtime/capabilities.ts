import { ApiError } from '@forkd/api';
import type { Capabilities, Capability } from '@forkd/engine';

/** An engine, or one of its VMs, which may have fewer capabilities. */
interface Able {
  readonly capabilities: Capabilities;
}

/** Refuses an unsupported request with the reason, before anything is changed. `asked` begins the sentence. */
export function assertCan({ capabilities }: Able, capability: Capability, asked: string, hint?: string): void {
  const why = capabilities[capability];
  if (why !== true) throw new ApiError('unsupported', `${asked}: ${why}`, { hint });
}
