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

/** The policy that these options make. Undefined if none of them was given. */
export function networkOf({ net, allow, deny }: NetworkOptions): NetworkPolicy | undefined {
  if (net === undefined && allow === undefined && deny === undefined) return undefined;
  return { access: net ?? 'none', ...(allow && { allow }), ...(deny && { deny }) };
}
