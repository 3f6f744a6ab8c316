import { ApiError } from '@forkd/api';
import type { Capabilities, Capability } from '@forkd/engine';

/** An engine, or a VM of it, to which less may be open. */
interface Able {
  readonly capabilities: Capabilities;
}

/** Refuses what cannot be done here, with the reason, before anything is touched. `asked` begins the sentence. */
export function assertCan({ capabilities }: Able, capability: Capability, asked: string, hint?: string): void {
  const why = capabilities[capability];
  if (why !== true) throw new ApiError('unsupported', `${asked}: ${why}`, { hint });
}
