import type { UpdateSandboxRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import { defineCommand, type Call } from '../command.ts';
import { UsageError } from '../lib/errors.ts';
import { label, labelKeys, nameOf, wholeSeconds } from '../lib/parse.ts';
import { resolveSandbox } from '../lib/resolve.ts';

type Options = {
  /** False: taken away. */
  name?: string | false;
  label?: Record<string, string>;
  removeLabel?: string[];
  ttl?: number | false;
  onExpire?: 'kill' | 'pause';
};

export const update = defineCommand<Options>({
  name: 'update',
  summary: 'change the name, the labels or the time of a sandbox',
  description: 'What is not named stays as it is.',
  args: [{ name: 'sandbox', summary: 'id, a beginning of it, or name', completes: 'sandbox' }],
  options: [
    { flags: '--name <name>', summary: 'give it this name', parse: nameOf },
    { flags: '--no-name', summary: 'take its name away' },
    { flags: '--label <k=v>', summary: 'set this label; several times', parse: label },
    {
      flags: '--remove-label <key>',
      summary: 'take this label away; several times',
      parse: labelKeys('--remove-label'),
    },
    {
      flags: '--ttl <time>',
      summary: 'how long it lives from now on, such as 90, 15m or 2h',
      parse: wholeSeconds('--ttl', 1, limits.ttlSecsMax),
    },
    { flags: '--no-ttl', summary: 'let it live until it is ended' },
    { flags: '--on-expire <what>', summary: 'what becomes of it when its time is over', choices: ['kill', 'pause'] },
  ],
  examples: [
    { line: 'forkd update sb-1f --name web --label stage=test', summary: 'to be found by' },
    { line: 'forkd update web --ttl 2h --on-expire pause', summary: 'two more hours' },
    { line: 'forkd update web --no-ttl --remove-label stage', summary: 'until it is ended' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const { name, label: labels = {}, removeLabel = [], ttl, onExpire } = options;
  const changesLabels = Object.keys(labels).length + removeLabel.length > 0;
  if (name === undefined && ttl === undefined && onExpire === undefined && !changesLabels) {
    throw new UsageError('update: nothing to change is given', 'see `forkd update --help`');
  }
  const client = await context.client();
  const { signal } = context;
  const id = await resolveSandbox(client, args[0] ?? '', context);
  const request: UpdateSandboxRequest = {};
  if (name !== undefined) request.name = name === false ? null : name;
  if (ttl !== undefined) request.ttl_secs = ttl === false ? null : ttl;
  if (onExpire !== undefined) request.on_expire = onExpire;
  if (changesLabels) {
    // The route takes all labels at once: those that are not named here stay.
    const kept = Object.entries((await client.getSandbox(id, { signal })).labels ?? {});
    request.labels = { ...Object.fromEntries(kept.filter(([key]) => !removeLabel.includes(key))), ...labels };
  }
  const info = await client.updateSandbox(id, request, { signal });
  if (context.out.isJson) context.out.json(info);
  else context.out.line(info.id);
}
