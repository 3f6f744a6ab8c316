import { defineCommand, type Call } from '../../command.ts';
import { formatAge } from '../../output/text.ts';

export const get = defineCommand({
  name: 'get',
  summary: 'show a workspace',
  args: [{ name: 'name', summary: 'name of the workspace', completes: 'workspace' }],
  options: [],
  examples: [
    { line: 'forkd workspace get dev', summary: 'for a person' },
    { line: 'forkd workspace get dev --json', summary: 'for a program' },
  ],
  run,
});

async function run({ context, args }: Call<unknown>): Promise<void> {
  const client = await context.client();
  const info = await client.getWorkspace(args[0] ?? '', { signal: context.signal });
  if (context.out.isJson) {
    context.out.json(info);
    return;
  }
  const labels = Object.entries(info.labels ?? {}).map(([key, value]) => `${key}=${value}`);
  context.out.fields({
    name: info.name,
    id: info.id,
    status: info.status,
    sandbox: info.live_sandbox_id,
    snapshot: info.source_snapshot_tag,
    'state in': info.current_state_tag,
    created: formatAge(info.created_at_unix),
    'last active': formatAge(info.last_active_unix),
    'memory limit': info.memory_limit_mib === undefined ? undefined : `${info.memory_limit_mib} MiB`,
    labels: labels.length === 0 ? undefined : labels.join(' '),
  });
}
