import { defineCommand, type Call } from '../../command.ts';

export const deleteCommand = defineCommand({
  name: 'delete',
  aliases: ['rm'],
  summary: 'remove workspaces with their state, and end their sandboxes',
  description: 'The snapshots that they came from stay.',
  args: [{ name: 'name', summary: 'names of the workspaces', variadic: true, completes: 'workspace' }],
  options: [],
  examples: [{ line: 'forkd workspace delete dev', summary: 'nothing of it is left' }],
  run,
});

async function run({ context, args }: Call<unknown>): Promise<void> {
  const client = await context.client();
  for (const name of args) {
    await client.deleteWorkspace(name, { signal: context.signal });
    if (!context.out.isJson) context.out.line(name);
  }
  if (context.out.isJson) context.out.json({ deleted: args });
}
