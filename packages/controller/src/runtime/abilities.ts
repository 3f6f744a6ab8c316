import { ApiError } from '@forkd/api';
import type { Capability, Engine } from '@forkd/engine';

/** Refuses what the engine cannot do here, with its reason, before anything is touched. `asked` begins the sentence. */
export function assertCan({ capabilities }: Engine, capability: Capability, asked: string, hint?: string): void {
  const why = capabilities[capability];
  if (why !== true) throw new ApiError('unsupported', `${asked}: ${why}`, { hint });
}
