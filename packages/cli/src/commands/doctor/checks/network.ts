import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { Check } from '../check.ts';
import { skip, type Finding } from '../row.ts';

const NOT_USED = 'networks of guests do not use it';

/** Facilities of the host that other sandboxes need for their networks, and forkd does not: nothing here is judged. */
export const networkChecks: readonly Check[] = [
  { id: 'ip_forward', look: ipForward },
  { id: 'tap_device', look: tapDevice },
  { id: 'per_child_netns', look: perChildNetns },
];

async function ipForward(): Promise<Finding> {
  const value = (await readFile('/proc/sys/net/ipv4/ip_forward', 'latin1').catch(() => 'unknown')).trim();
  return skip(`net.ipv4.ip_forward is ${value}; ${NOT_USED}`);
}

function tapDevice(): Finding {
  return skip(`/dev/net/tun is ${existsSync('/dev/net/tun') ? '' : 'not '}there; ${NOT_USED}`);
}

function perChildNetns(): Finding {
  return skip(`network namespaces are ${existsSync('/proc/self/ns/net') ? '' : 'not '}there; ${NOT_USED}`);
}
