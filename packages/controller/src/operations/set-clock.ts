import { messageOf } from '@forkd/api';
import { anySignal } from '@forkd/engine';
import { unixNsNow } from '../clock.ts';
import { limits } from '../limits.ts';
import type { Sandbox } from '../state/sandbox.ts';
import type { Host } from './host.ts';

/**
 * Sets the clock of a guest, which stood still while its VM was stopped. Never rejects: a guest that does not answer keeps
 * running with its clock behind.
 */
export async function setClock({ log }: Pick<Host, 'log'>, { id, guest, ended }: Sandbox): Promise<void> {
  const signal = anySignal(AbortSignal.timeout(limits.clockTimeoutMs), ended.signal);
  try {
    await guest.call((agent) => agent.setClock(unixNsNow(), { signal }), { signal, repeatable: true });
  } catch (error) {
    if (!ended.signal.aborted) log.warn({ sandbox: id }, `could not set the clock of a guest: ${messageOf(error)}`);
  }
}
