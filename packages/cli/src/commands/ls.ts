import type { ListSandboxesQuery, SandboxInfo } from '@forkd/api';
import { defineCommand, type Call } from '../command.ts';
import { formatAge, formatUntil } from '../output/text.ts';
import { labelFilter, nameOf } from '../parse/parse.ts';

interface Options {
  label?: string[];
  name?: string;
  state?: 'running' | 'paused' | 'ended';
  all?: boolean;
  tag?: string;
}

export const ls = defineCommand<Options>({
  name: 'ls',
  aliases: ['ps'],
  summary: 'list sandboxes',
  args: [],
  options: [
    {
      flags: '--label <k=v>',
      summary: 'only sandboxes with this label, or with this key; can be repeated',
      parse: labelFilter,
    },
    { flags: '--name <name>', summary: 'only the sandbox with this name', parse: nameOf, completes: 'sandbox' },
    { flags: '--state <state>', summary: 'only sandboxes in this state', choices: ['running', 'paused', 'ended'] },
    { flags: '--tag <tag>', summary: 'only sandboxes started from this snapshot', completes: 'snapshot' },
    { flags: '-a, --all', summary: 'also those that ended in the last hour' },
  ],
  examples: [
    { line: 'forkd ls', summary: 'as a table' },
    { line: 'forkd ls -q --label team=core', summary: 'ids of the sandboxes with a label' },
    { line: 'forkd ls --state paused --json', summary: 'paused sandboxes, for a program' },
    { line: 'forkd ls -a', summary: 'ended ones too, with the reason' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const client = await context.client();
  const { signal } = context;
  const query = queryOf(options);
  const sandboxes = await client.listSandboxes({ signal }, query);
  if (options.all && options.state === undefined) {
    sandboxes.push(...(await client.listSandboxes({ signal }, { ...query, state: 'ended' })));
  }
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
    stateText(sandbox),
    sandbox.snapshot_tag,
    formatAge(sandbox.created_at_unix),
    expires === undefined ? '-' : `${formatUntil(expires)}${onExpire === 'pause' ? ' (pause)' : ''}`,
    sandbox.pid === null ? '-' : String(sandbox.pid),
    String(sandbox.branch_count),
    labelsText(sandbox.labels),
  ];
}

function stateText({ state = 'running', end_reason: reason, stalled }: SandboxInfo): string {
  if (stalled !== undefined) return `${state} (stalled)`;
  return reason === undefined ? state : `${state} (${reason})`;
}

function labelsText(labels: Record<string, string> = {}): string {
  const pairs = Object.entries(labels).map(([key, value]) => (value === '' ? key : `${key}=${value}`));
  return pairs.length === 0 ? '-' : pairs.join(' ');
}
