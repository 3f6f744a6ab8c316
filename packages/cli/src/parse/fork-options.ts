import type { CreateSandboxesRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import type { OptionSpec } from '../command.ts';
import { integer, label, nameOf } from './parse.ts';

/** Options for starting a sandbox, shared by all verbs that start one. */
export interface HostOptions {
  memoryLimitMib?: number;
  perChildNetns?: boolean;
  label?: Record<string, string>;
}

export const hostOptions: readonly OptionSpec[] = [
  {
    flags: '--memory-limit-mib <mib>',
    summary: 'limit of its memory on the host',
    parse: integer('--memory-limit-mib', limits.memoryLimitMibMin, limits.memMibMax),
  },
  { flags: '--per-child-netns', summary: 'give it its own network namespace' },
  { flags: '--label <k=v>', summary: 'add this label; can be repeated', parse: label },
];

/** The option `--safety`, with the values of the API. */
export function safetyOption(strict: string): OptionSpec {
  return { flags: '--safety <how>', summary: `strict: ${strict}`, choices: ['standard', 'strict'] };
}

export const nameOption: OptionSpec = {
  flags: '--name <name>',
  summary: 'name to use in place of the id',
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
