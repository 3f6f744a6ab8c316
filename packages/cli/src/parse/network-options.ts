import type { NetworkAccess, NetworkPolicy } from '@forkd/api';
import type { OptionSpec } from '../command.ts';
import { collect } from './parse.ts';

/** Options for what a sandbox may reach. The controller reads the rules. */
export interface NetworkOptions {
  net?: NetworkAccess;
  allow?: string[];
  deny?: string[];
}

export const networkOptions: readonly OptionSpec[] = [
  {
    flags: '--net <access>',
    summary: 'none: only what --allow names; all: also every public address',
    choices: ['none', 'all'],
  },
  {
    flags: '--allow <rule>',
    summary: 'what may be reached, such as pypi.org:443, *.example.com, 10.1.0.0/16 or a preset; can be repeated',
    parse: collect,
  },
  { flags: '--deny <rule>', summary: 'what may not be reached, whatever allows it; can be repeated', parse: collect },
];

/** Options for what the warm-up of a template may reach. */
export interface WarmNetworkOptions {
  warmNet?: string[];
}

export const warmNetworkOptions: readonly OptionSpec[] = [
  {
    flags: '--warm-net <rule>',
    summary: 'what only the warm-up may reach: a rule as in --allow, or all; can be repeated',
    parse: collect,
  },
];

/** The policy of the warm-up. Undefined if it is that of the children. */
export function warmNetworkOf({ warmNet }: WarmNetworkOptions): NetworkPolicy | undefined {
  if (warmNet === undefined) return undefined;
  const allow = warmNet.filter((rule) => rule !== 'all');
  return { access: allow.length < warmNet.length ? 'all' : 'none', ...(allow.length > 0 && { allow }) };
}

/** The policy that these options make. Undefined if none of them was given. */
export function networkOf({ net, allow, deny }: NetworkOptions): NetworkPolicy | undefined {
  if (net === undefined && allow === undefined && deny === undefined) return undefined;
  return { access: net ?? 'none', ...(allow && { allow }), ...(deny && { deny }) };
}
