import { ApiError } from '@forkd/api';
import type { Pager } from '@forkd/engine';

import { withDeadline } from '../deadline.ts';
import { during } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Vmm } from '../runtime/vmm.ts';
import type { Sandbox } from './sandbox.ts';

/** Asks the pager something about a sandbox that it answers out of its memory. Errors name the sandbox. */
export async function askPager<T>(
  vmm: Pick<Vmm, 'use'>,
  sandbox: Sandbox,
  question: (pager: Pager) => Promise<T>,
): Promise<T> {
  const { signal } = sandbox.ended;
  const { pager } = await vmm.use(signal);
  try {
    const late = () => new ApiError('pager_unavailable', 'The pager does not answer.');
    return await withDeadline(limits.pagerRequestTimeoutMs, signal, late, () => question(pager));
  } catch (error) {
    throw during(`Sandbox ${sandbox.id}`, error);
  }
}
