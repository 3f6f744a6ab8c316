import type { PruneSnapshotsRequest } from '@forkd/api';
import { defineCommand, type Call } from '../command.ts';
import { UsageError } from '../lib/errors.ts';
import { integer, wholeSeconds } from '../lib/parse.ts';

type Options = { olderThan?: number; keep?: number; dryRun?: boolean };

const YEAR_SECS = 365 * 86_400;

export const prune = defineCommand<Options>({
  name: 'prune',
  summary: 'remove branches that are old or many',
  description:
    'Templates stay, and so do snapshots that others or running sandboxes need. Prints the tags that were removed.',
  args: [],
  options: [
    {
      flags: '--older-than <time>',
      summary: 'those made before this time, such as 90, 15m, 2h or 7d',
      parse: wholeSeconds('--older-than', 0, 100 * YEAR_SECS),
    },
    {
      flags: '--keep <n>',
      summary: 'of each template, all but this many of the newest',
      parse: integer('--keep', 0, 1_000_000),
    },
    { flags: '--dry-run', summary: 'only say what would be removed' },
  ],
  examples: [
    { line: 'forkd prune --older-than 7d --dry-run', summary: 'what a week has left' },
    { line: 'forkd prune --keep 10', summary: 'the ten newest of each template stay' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  if (options.olderThan === undefined && options.keep === undefined) {
    throw new UsageError('prune: say what is too much', 'give --older-than, --keep or both');
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
  context.out.note(`${removed.length} ${options.dryRun ? 'would be removed' : 'removed'}`);
}
