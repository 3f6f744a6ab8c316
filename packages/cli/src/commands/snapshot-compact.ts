import { defineCommand, type Call } from '../command.ts';
import { UsageError } from '../lib/errors.ts';
import { withProgress } from '../output/progress.ts';
import { tag } from '../parse/parse.ts';
import { resolveSnapshot } from '../parse/resolve.ts';

interface Options {
  from?: string;
  to: string;
}

export const snapshotCompact = defineCommand<Options>({
  name: 'snapshot-compact',
  summary: 'rewrite a snapshot so that it needs none of its ancestors',
  description: 'Its memory is then one layer. The old snapshot stays, and can be removed.',
  args: [{ name: 'tag', summary: 'tag, or the beginning of it', optional: true, completes: 'snapshot' }],
  options: [
    { flags: '--from <tag>', summary: 'the same snapshot, as an option', completes: 'snapshot' },
    { flags: '--to <tag>', summary: 'tag of the new snapshot', required: true, parse: tag },
  ],
  examples: [{ line: 'forkd snapshot-compact py-app --to py-flat', summary: 'rewrite a chain as one layer' }],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const text = args[0] ?? options.from;
  if (text === undefined || (args[0] !== undefined && options.from !== undefined)) {
    throw new UsageError('snapshot-compact: Give one snapshot.', 'Write it as `forkd snapshot-compact TAG --to NEW`.');
  }
  const client = await context.client();
  const from = await resolveSnapshot(client, text, context);
  const work = client.compactSnapshot(from, options.to, { signal: context.signal });
  const info = await withProgress(context.out, 'compact', `${from} to ${options.to}`, work);
  if (context.out.isJson) context.out.json(info);
  else context.out.line(info.tag);
}
