import { CodedError } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { reportOf } from '../lib/errors.ts';
import { withCount } from '../output/progress.ts';

interface Options {
  cascade?: boolean;
  force?: boolean;
}

export const rmi = defineCommand<Options>({
  name: 'rmi',
  summary: 'remove snapshots',
  description:
    'Takes whole tags only, not beginnings. Prints all tags that it removes. A branch keeps its parent if it was made with\n`forkd snapshot-diff`, or with `parent_tag` in the API.',
  args: [{ name: 'tag', summary: 'tags of the snapshots', variadic: true, completes: 'snapshot' }],
  options: [
    { flags: '--cascade', summary: 'remove the snapshots that keep it too', conflicts: ['force'] },
    { flags: '--force', summary: 'remove it although other snapshots keep it; those stay usable' },
  ],
  examples: [
    { line: 'forkd rmi old-branch', summary: 'remove a snapshot that nothing depends on' },
    { line: 'forkd rmi --cascade base', summary: 'remove a template and the branches that keep it' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const client = await context.client();
  const removed: string[] = [];
  const failures: unknown[] = [];
  const remove = options.cascade ? await cascade(context, client) : removal(context, client, options);
  await withCount(context.out, 'rmi', args.length, async (tick) => {
    for (const tag of args) {
      try {
        // A cascade may have removed it already.
        const gone = removed.includes(tag) ? [] : await remove(tag);
        removed.push(...gone);
        if (!context.out.isJson) for (const one of gone) context.out.line(one);
      } catch (error) {
        context.signal.throwIfAborted();
        failures.push(error);
      }
      tick();
    }
  });
  if (context.out.isJson) context.out.json({ removed });
  throwAll(failures, args.length);
}

/** Removes one snapshot, and returns the tags of all that are gone. */
type Removal = (tag: string) => Promise<string[]>;

function removal({ signal }: Context, client: ForkdClient, { force = false }: Options): Removal {
  return async (tag) => {
    await client.deleteSnapshot(tag, force ? { force } : {}, { signal });
    return [tag];
  };
}

/** Removes those that keep the snapshot, too. The tags are listed once at first, and once more after each removal. */
async function cascade(context: Context, client: ForkdClient): Promise<Removal> {
  let before = await tagsOf(context, client);
  return async (tag) => {
    await client.deleteSnapshot(tag, { cascade: true }, { signal: context.signal });
    const left = await tagsOf(context, client);
    const gone = before.filter((one) => !left.includes(one));
    before = left;
    return gone;
  };
}

/** Reports everything that failed as one error. */
function throwAll(failures: readonly unknown[], count: number): void {
  if (failures.length === 1) throw failures[0];
  const [first, ...others] = failures.map((failure) => reportOf(failure));
  if (first === undefined) return;
  const sentences = [first, ...others].map(({ error }) => error).join(' ');
  const sentence = `${failures.length} of ${count} snapshots could not be removed. ${sentences}`;
  throw new CodedError(first.code, sentence, first.hint === undefined ? {} : { hint: first.hint });
}

async function tagsOf({ signal }: Context, client: ForkdClient): Promise<string[]> {
  return (await client.listSnapshots({ signal })).map(({ tag }) => tag);
}
