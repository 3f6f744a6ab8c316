import { Sandbox, type ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { CommandError, reportOf, UsageError } from '../lib/errors.ts';
import { labelFilter } from '../lib/parse.ts';
import { resolveSandboxes } from '../lib/resolve.ts';

type Options = { all?: boolean; label?: string[] };

export const kill = defineCommand<Options>({
  name: 'kill',
  summary: 'end sandboxes',
  args: [
    {
      name: 'sandbox',
      summary: 'ids, beginnings of them, or names',
      optional: true,
      variadic: true,
      completes: 'sandbox',
    },
  ],
  options: [
    { flags: '--all', summary: 'all of them' },
    { flags: '--label <k=v>', summary: 'with --all: those with this label; several times', parse: labelFilter },
  ],
  examples: [
    { line: 'forkd kill sb-1f web', summary: 'two of them' },
    { line: 'forkd kill --all', summary: 'every one' },
    { line: 'forkd kill --all --label team=core', summary: 'those with a label' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  if (options.all ? args.length > 0 : args.length === 0) {
    throw new UsageError('kill: give the ids of sandboxes, or --all');
  }
  if (options.label !== undefined && !options.all) throw new UsageError('kill: --label goes with --all');
  const client = await context.client();
  const { signal } = context;
  const ids = options.all
    ? await labelled(context, client, options.label)
    : await resolveSandboxes(client, args, context);
  const results = await Promise.allSettled(ids.map((id) => Sandbox.kill(id, { client, signal })));
  const ended = ids.filter((_, index) => results[index]?.status === 'fulfilled');
  if (context.out.isJson) context.out.json({ killed: ended });
  else for (const id of ended) context.out.line(id);
  const failed = results.filter((result) => result.status === 'rejected');
  if (failed.length === 1) throw failed[0]?.reason;
  if (failed.length > 1) {
    const first = reportOf(failed[0]?.reason).error;
    throw new CommandError('guest_unreachable', `${failed.length} sandboxes could not be ended: ${first}`);
  }
}

async function labelled(context: Context, client: ForkdClient, label: string[] | undefined): Promise<string[]> {
  const query = label === undefined ? {} : { label };
  return (await client.listSandboxes({ signal: context.signal }, query)).map((sandbox) => sandbox.id);
}
