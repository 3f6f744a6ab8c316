import { defineCommand, type Call } from '../command.ts';
import { formatAge, formatMs } from '../lib/text.ts';

export const ls = defineCommand({
  name: 'ls',
  aliases: ['ps'],
  summary: 'list the sandboxes that run',
  args: [],
  options: [],
  examples: [
    { line: 'forkd ls', summary: 'as a table' },
    { line: 'forkd ls -q', summary: 'only the ids' },
  ],
  run,
});

async function run({ context }: Call<Record<string, unknown>>): Promise<void> {
  const client = await context.client();
  const sandboxes = await client.listSandboxes({ signal: context.signal });
  if (context.out.isJson) {
    context.out.json(sandboxes);
    return;
  }
  if (context.out.isQuiet) {
    for (const sandbox of sandboxes) context.out.line(sandbox.id);
    return;
  }
  const rows = sandboxes.map((sandbox) => [
    sandbox.id,
    sandbox.snapshot_tag,
    formatAge(sandbox.created_at_unix),
    sandbox.pid === null ? '-' : String(sandbox.pid),
    sandbox.ready_ms === undefined ? '-' : formatMs(sandbox.ready_ms),
    String(sandbox.branch_count),
  ]);
  context.out.table(['SANDBOX', 'SNAPSHOT', 'CREATED', 'PID', 'READY IN', 'BRANCHES'], rows);
}
