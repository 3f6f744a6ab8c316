import type { CreateSandboxesRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import type { OptionSpec } from '../command.ts';
import { integer, label, nameOf } from './parse.ts';

/** What every sandbox can be started with, whichever verb starts it. */
export type HostOptions = { memoryLimitMib?: number; perChildNetns?: boolean; label?: Record<string, string> };

export const hostOptions: readonly OptionSpec[] = [
  {
    flags: '--memory-limit-mib <mib>',
    summary: 'limit of what it may take of the host',
    parse: integer('--memory-limit-mib', limits.memoryLimitMibMin, limits.memMibMax),
  },
  { flags: '--per-child-netns', summary: 'give it a network namespace of its own' },
  { flags: '--label <k=v>', summary: 'note this on it, to find it again by; several times', parse: label },
];

export const nameOption: OptionSpec = {
  flags: '--name <name>',
  summary: 'name that can be given in place of the id',
  parse: nameOf,
};

export function hostFields(
  options: HostOptions,
): Pick<CreateSandboxesRequest, 'memory_limit_mib' | 'per_child_netns' | 'labels'> {
  return {
    ...(options.memoryLimitMib !== undefined && { memory_limit_mib: options.memoryLimitMib }),
    ...(options.perChildNetns && { per_child_netns: true }),
    ...(options.label !== undefined && { labels: options.label }),
  };
}
