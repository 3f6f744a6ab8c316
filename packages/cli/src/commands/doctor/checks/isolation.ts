import type { HostInfo } from '@forkd/api';
import type { Check } from '../check.ts';
import type { Facts } from '../facts.ts';
import { ofController, pass, skip, warn, type Finding } from '../row.ts';

export const isolationChecks: readonly Check[] = [{ id: 'isolation', look: isolation }];

/** Reports how VMMs are confined. Only a controller has tried that. */
async function isolation(facts: Facts): Promise<Finding> {
  const host = await facts.host();
  if (host === undefined) return skip('a controller that runs says how it confines VMMs');
  return ofController(confinement(host.engine.isolation));
}

function confinement(parts: HostInfo['engine']['isolation']): Finding {
  const lost = parts.filter(({ ok }) => !ok);
  if (lost.length === 0) return pass(`VMMs are confined: ${parts.map(({ id }) => id).join(', ')}`);
  return warn(
    `VMMs are confined by less: no ${lost.map(({ id }) => id).join(', ')}`,
    lost.map(({ id, detail }) => `${id}: ${detail}`).join(' '),
  );
}
