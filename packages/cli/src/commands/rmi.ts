import { defineCommand, type Call } from '../command.ts';

type Options = { cascade?: boolean; force?: boolean };

export const rmi = defineCommand<Options>({
  name: 'rmi',
  summary: 'remove snapshots',
  description: 'Takes whole tags only: what is removed is what was written.',
  args: [{ name: 'tag', summary: 'tags of the snapshots', variadic: true, completes: 'snapshot' }],
  options: [
    { flags: '--cascade', summary: 'and the snapshots that were made from it', conflicts: ['force'] },
    { flags: '--force', summary: 'this one, although others were made from it' },
  ],
  examples: [
    { line: 'forkd rmi old-branch', summary: 'one that nothing depends on' },
    { line: 'forkd rmi --cascade base', summary: 'a template with all its branches' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const client = await context.client();
  const query = { ...(options.cascade ? { cascade: true } : {}), ...(options.force ? { force: true } : {}) };
  for (const tag of args) {
    await client.deleteSnapshot(tag, query, { signal: context.signal });
    if (!context.out.isJson) context.out.line(tag);
  }
  if (context.out.isJson) context.out.json({ removed: args });
}
