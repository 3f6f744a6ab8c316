import type { UpdateSandboxRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import { defineCommand, type Call } from '../command.ts';
import { UsageError } from '../lib/errors.ts';
import { label, labelKeys, nameOf, wholeSeconds } from '../parse/parse.ts';
import { resolveSandbox } from '../parse/resolve.ts';

interface Options {
  /** False: the name is removed. */
  name?: string | false;
  label?: Record<string, string>;
  removeLabel?: string[];
  ttl?: number | false;
  onExpire?: 'kill' | 'pause';
}

export const update = defineCommand<Options>({
  name: 'update',
  summary: 'change the name, the labels or the lifetime of a sandbox',
  description: 'Everything that no option names stays as it is.',
  args: [{ name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' }],
  options: [
    { flags: '--name <name>', summary: 'new name', parse: nameOf },
    { flags: '--no-name', summary: 'remove the name' },
    { flags: '--label <k=v>', summary: 'set this label; can be repeated', parse: label },
    {
      flags: '--remove-label <key>',
      summary: 'remove this label; can be repeated',
      parse: labelKeys('--remove-label'),
    },
    {
      flags: '--ttl <time>',
      summary: 'lifetime from now on, such as 90, 15m or 2h',
      parse: wholeSeconds('--ttl', 1, limits.ttlSecsMax),
    },
    { flags: '--no-ttl', summary: 'no lifetime: it runs until it is killed' },
    { flags: '--on-expire <what>', summary: 'what happens at the end of its lifetime', choices: ['kill', 'pause'] },
  ],
  examples: [
    { line: 'forkd update sb-1f --name web --label stage=test', summary: 'give it a name and a label' },
    { line: 'forkd update web --ttl 2h --on-expire pause', summary: 'two hours from now, then pause' },
    { line: 'forkd update web --no-ttl --remove-label stage', summary: 'no lifetime, and one label less' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const { name, label: labels = {}, removeLabel = [], ttl, onExpire } = options;
  const changesLabels = Object.keys(labels).length + removeLabel.length > 0;
  if (name === undefined && ttl === undefined && onExpire === undefined && !changesLabels) {
    throw new UsageError('update: There is nothing to change.', '`forkd update --help` lists the options.');
  }
  const client = await context.client();
  const { signal } = context;
  const id = await resolveSandbox(client, args[0] ?? '', context);
  const request: UpdateSandboxRequest = {};
  if (name !== undefined) request.name = name === false ? null : name;
  if (ttl !== undefined) request.ttl_secs = ttl === false ? null : ttl;
  if (onExpire !== undefined) request.on_expire = onExpire;
  if (changesLabels) {
    // The route replaces all labels, so labels that are not named here are sent along unchanged.
    const kept = Object.entries((await client.getSandbox(id, { signal })).labels ?? {});
    request.labels = { ...Object.fromEntries(kept.filter(([key]) => !removeLabel.includes(key))), ...labels };
  }
  const info = await client.updateSandbox(id, request, { signal });
  if (context.out.isJson) context.out.json(info);
  else context.out.line(info.id);
}
