import type { HostInfo } from '@forkd/api';
import type { Check } from '../check.ts';
import type { Facts } from '../facts.ts';
import { fail, ofController, pass, skip, warn, type Finding } from '../row.ts';

export const daemonChecks: readonly Check[] = [
  { id: 'daemon', look: daemon },
  { id: 'capabilities', look: capabilities },
  { id: 'window', look: window },
];

/** The capability that has a row of its own. */
const WINDOW_INSIDE = 'window_inside';

async function daemon(facts: Facts): Promise<Finding> {
  const controller = await facts.controller();
  if (controller.host !== undefined) {
    const { version, pid, engine } = controller.host;
    const runs = `${engine.name} ${engine.version} with ${engine.accelerator}`;
    return ofController(pass(`version ${version}, pid ${pid}, at ${controller.place}; it runs ${runs}`));
  }
  const { code, message, hint } = controller.error;
  if (code === 'controller_not_running') return skip('does not run', 'any verb that needs it starts it');
  return fail(message, `no verb that needs a sandbox works; ${hint ?? 'its log says more'}`);
}

/** Lists the capabilities that the running controller reports. */
async function capabilities(facts: Facts): Promise<Finding> {
  const host = await facts.host();
  if (host === undefined) return skip('a controller that runs says what can be asked of it');
  return ofController(capable(host.engine.capabilities.filter(({ id }) => id !== WINDOW_INSIDE)));
}

function capable(all: HostInfo['engine']['capabilities']): Finding {
  const can = all.filter(({ ok }) => ok).map(({ id }) => id);
  const cannot = all.filter(({ ok }) => !ok);
  if (cannot.length === 0) return pass(can.join(', '));
  return warn(
    `${can.join(', ')}; but no ${cannot.map(({ id }) => id).join(', ')}`,
    cannot.map(({ id, why }) => `${id}: ${why}`).join(' '),
  );
}

/** Says what conducts the pauses of live branches of the running controller. */
async function window(facts: Facts): Promise<Finding> {
  const host = await facts.host();
  if (host?.engine.window === undefined) return skip('a controller that runs says what conducts pauses');
  return ofController(conducted(host.engine));
}

function conducted({ window: kind, capabilities: all }: HostInfo['engine']): Finding {
  if (kind === 'inside') return pass('inside: the VMM conducts the pauses of live branches itself');
  const why = all.find(({ id }) => id === WINDOW_INSIDE)?.why ?? 'no reason given';
  return warn(`monitor: ${why}`, 'live branches work; each pauses the sandbox for about a millisecond longer');
}
