import type { ListSandboxesQuery, SandboxInfo } from '@forkd/api';
import { defineCommand, type Call } from '../command.ts';
import { labelFilter, nameOf } from '../lib/parse.ts';
import { formatAge, formatUntil } from '../lib/text.ts';

type Options = { label?: string[]; name?: string; state?: 'running' | 'paused'; tag?: string };

export const ls = defineCommand<Options>({
  name: 'ls',
  aliases: ['ps'],
  summary: 'list the sandboxes',
  args: [],
  options: [
    {
      flags: '--label <k=v>',
      summary: 'only those with this label, or with this key; several times',
      parse: labelFilter,
    },
    { flags: '--name <name>', summary: 'only the one of this name', parse: nameOf, completes: 'sandbox' },
    { flags: '--state <state>', summary: 'only those in this state', choices: ['running', 'paused'] },
    { flags: '--tag <tag>', summary: 'only those started from this snapshot', completes: 'snapshot' },
    { flags: '-a, --all', summary: 'accepted: paused ones are listed in any case', hidden: true },
  ],
  examples: [
    { line: 'forkd ls', summary: 'as a table' },
    { line: 'forkd ls -q --label team=core', summary: 'only the ids of those with a label' },
    { line: 'forkd ls --state paused --json', summary: 'as the API answers' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const client = await context.client();
  const sandboxes = await client.listSandboxes({ signal: context.signal }, queryOf(options));
  if (context.out.isJson) {
    context.out.json(sandboxes);
    return;
  }
  if (context.out.isQuiet) {
    for (const sandbox of sandboxes) context.out.line(sandbox.id);
    return;
  }
  const header = ['SANDBOX', 'NAME', 'STATE', 'SNAPSHOT', 'CREATED', 'EXPIRES', 'PID', 'BRANCHES', 'LABELS'];
  context.out.table(header, sandboxes.map(row));
}

function queryOf(options: Options): ListSandboxesQuery {
  return {
    ...(options.label !== undefined && { label: options.label }),
    ...(options.name !== undefined && { name: options.name }),
    ...(options.state !== undefined && { state: options.state }),
    ...(options.tag !== undefined && { snapshot_tag: options.tag }),
  };
}

function row(sandbox: SandboxInfo): string[] {
  const { expires_at_unix: expires, on_expire: onExpire = 'kill' } = sandbox;
  return [
    sandbox.id,
    sandbox.name ?? '-',
    sandbox.state ?? 'running',
    sandbox.snapshot_tag,
    formatAge(sandbox.created_at_unix),
    expires === undefined ? '-' : `${formatUntil(expires)}${onExpire === 'pause' ? ' (pause)' : ''}`,
    sandbox.pid === null ? '-' : String(sandbox.pid),
    String(sandbox.branch_count),
    labelsText(sandbox.labels),
  ];
}

function labelsText(labels: Record<string, string> = {}): string {
  const pairs = Object.entries(labels).map(([key, value]) => (value === '' ? key : `${key}=${value}`));
  return pairs.length === 0 ? '-' : pairs.join(' ');
}
