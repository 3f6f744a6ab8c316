import { ApiError } from '@forkd/api';
import type { Vm } from '@forkd/engine';
import { withDeadline } from '../deadline.ts';
import { withContext } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Vmm } from '../runtime/vmm.ts';
import type { Sandbox } from '../state/sandbox.ts';

/** Asks a sandbox's VM something that takes no longer than a message to its VMM or its pager. Errors name the sandbox. */
export async function askVm<T>(
  vmm: Pick<Vmm, 'use'>,
  sandbox: Sandbox,
  question: (vm: Vm, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const { signal } = sandbox.ended;
  // A lost pager is started again first, and the VM is announced to it.
  await vmm.use(signal);
  try {
    const late = () => new ApiError('pager_unavailable', 'Its VM does not answer.');
    return await withDeadline(limits.pagerRequestTimeoutMs, signal, late, (inTime) => question(vmOf(sandbox), inTime));
  } catch (error) {
    throw withContext(`Sandbox ${sandbox.id}`, error);
  }
}

/** The VM of a sandbox that runs or is paused. */
export function vmOf({ id, vm }: Sandbox): Vm {
  if (vm === null) throw new Error(`sandbox ${id} runs without a VM`);
  return vm;
}
