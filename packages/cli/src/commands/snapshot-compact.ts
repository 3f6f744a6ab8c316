import { defineCommand, type Call } from '../command.ts';
import { UsageError } from '../lib/errors.ts';
import { tag } from '../lib/parse.ts';
import { withProgress } from '../lib/progress.ts';
import { resolveSnapshot } from '../lib/resolve.ts';

type Options = { from?: string; to: string };

export const snapshotCompact = defineCommand<Options>({
  name: 'snapshot-compact',
  summary: 'write a snapshot anew that needs none of those it was made from',
  description: 'Its memory is then in one layer. The old one stays, and can be removed.',
  args: [{ name: 'tag', summary: 'tag, or a beginning of it', optional: true, completes: 'snapshot' }],
  options: [
    { flags: '--from <tag>', summary: 'the same as an option', completes: 'snapshot' },
    { flags: '--to <tag>', summary: 'tag of the new one', required: true, parse: tag },
  ],
  examples: [{ line: 'forkd snapshot-compact py-app --to py-flat', summary: 'a chain made flat' }],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const text = args[0] ?? options.from;
  if (text === undefined || (args[0] !== undefined && options.from !== undefined)) {
    throw new UsageError('snapshot-compact: give one snapshot', 'as `forkd snapshot-compact TAG --to NEW`');
  }
  const client = await context.client();
  const from = await resolveSnapshot(client, text, context);
  const work = client.compactSnapshot(from, options.to, { signal: context.signal });
  const info = await withProgress(context.out, 'compact', `${from} to ${options.to}`, work);
  if (context.out.isJson) context.out.json(info);
  else context.out.line(info.tag);
}
