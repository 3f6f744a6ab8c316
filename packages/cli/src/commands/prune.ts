import type { PruneSnapshotsRequest } from '@forkd/api';
import { defineCommand, type Call } from '../command.ts';
import { UsageError } from '../lib/errors.ts';
import { plural } from '../output/text.ts';
import { integer, wholeSeconds } from '../parse/parse.ts';

interface Options {
  olderThan?: number;
  keep?: number;
  dryRun?: boolean;
}

const YEAR_SECS = 365 * 86_400;

export const prune = defineCommand<Options>({
  name: 'prune',
  summary: 'remove old branches',
  description:
    'Templates stay, and so do snapshots that another snapshot or a sandbox needs. Prints the tags of the removed snapshots.',
  args: [],
  options: [
    {
      flags: '--older-than <time>',
      summary: 'branches older than this, such as 90, 15m, 2h or 7d',
      parse: wholeSeconds('--older-than', 0, 100 * YEAR_SECS),
    },
    {
      flags: '--keep <n>',
      summary: 'all but this many of the newest branches of each template',
      parse: integer('--keep', 0, 1_000_000),
    },
    { flags: '--dry-run', summary: 'print what would be removed, and remove nothing' },
  ],
  examples: [
    { line: 'forkd prune --older-than 7d --dry-run', summary: 'show what is older than a week' },
    { line: 'forkd prune --keep 10', summary: 'keep the ten newest of each template' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  if (options.olderThan === undefined && options.keep === undefined) {
    throw new UsageError('prune: Say what is too much.', 'Give --older-than, --keep or both.');
  }
  const client = await context.client();
  const request: PruneSnapshotsRequest = {};
  if (options.olderThan !== undefined) request.older_than_secs = options.olderThan;
  if (options.keep !== undefined) request.keep = options.keep;
  if (options.dryRun) request.dry_run = true;
  const { removed, kept } = await client.pruneSnapshots(request, { signal: context.signal });
  if (context.out.isJson) {
    context.out.json({ removed, kept });
    return;
  }
  for (const tag of removed) context.out.line(tag);
  for (const { tag, reason } of kept) context.out.note(`${tag} stays: ${reason}`);
  context.out.note(`${plural(removed.length, 'snapshot')} ${options.dryRun ? 'would be removed' : 'removed'}.`);
}
