import { defineCommand, type Call } from '../../command.ts';
import { withCount } from '../../output/progress.ts';

export const deleteCommand = defineCommand({
  name: 'delete',
  aliases: ['rm'],
  summary: 'delete workspaces with their state, and kill their sandboxes',
  description: 'The snapshots that they were started from stay.',
  args: [{ name: 'name', summary: 'names of the workspaces', variadic: true, completes: 'workspace' }],
  options: [],
  examples: [{ line: 'forkd workspace delete dev', summary: 'delete the workspace and its state' }],
  run,
});

async function run({ context, args }: Call<unknown>): Promise<void> {
  const client = await context.client();
  await withCount(context.out, 'delete', args.length, async (tick) => {
    for (const name of args) {
      await client.deleteWorkspace(name, { signal: context.signal });
      if (!context.out.isJson) context.out.line(name);
      tick();
    }
  });
  if (context.out.isJson) context.out.json({ deleted: args });
}
