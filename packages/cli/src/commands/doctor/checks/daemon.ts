import type { Check } from '../check.ts';
import type { Facts } from '../facts.ts';
import { fail, pass, skip, type Finding } from '../row.ts';

export const daemonChecks: readonly Check[] = [{ id: 'daemon', look: daemon }];

async function daemon(facts: Facts): Promise<Finding> {
  const controller = await facts.controller();
  if (controller.host !== undefined) {
    return pass(`version ${controller.host.version}, pid ${controller.host.pid}, at ${controller.place}`);
  }
  const { code, message, hint } = controller.error;
  if (code === 'controller_not_running') return skip('does not run', 'any verb that needs it starts it');
  return fail(message, `no verb that needs a sandbox works; ${hint ?? 'its log says more'}`);
}
