import { defineCommand, type Call } from '../../command.ts';
import { formatAge } from '../../output/text.ts';

export const list = defineCommand({
  name: 'list',
  aliases: ['ls'],
  summary: 'list workspaces',
  args: [],
  options: [],
  examples: [
    { line: 'forkd workspace list', summary: 'as a table' },
    { line: 'forkd workspace list -q', summary: 'names only' },
  ],
  run,
});

async function run({ context }: Call<unknown>): Promise<void> {
  const client = await context.client();
  const workspaces = await client.listWorkspaces({ signal: context.signal });
  if (context.out.isJson) {
    context.out.json(workspaces);
    return;
  }
  if (context.out.isQuiet) {
    for (const { name } of workspaces) context.out.line(name);
    return;
  }
  context.out.table(
    ['WORKSPACE', 'STATUS', 'SANDBOX', 'SNAPSHOT', 'STATE IN', 'CREATED', 'LAST ACTIVE'],
    workspaces.map((info) => [
      info.name,
      info.status,
      info.live_sandbox_id ?? '-',
      info.source_snapshot_tag,
      info.current_state_tag ?? '-',
      formatAge(info.created_at_unix),
      formatAge(info.last_active_unix),
    ]),
  );
}
