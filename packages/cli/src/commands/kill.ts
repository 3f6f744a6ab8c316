import type { SandboxInfo } from '@forkd/api';
import { CodedError } from '@forkd/api/constants';
import { Sandbox } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { reportOf, UsageError } from '../lib/errors.ts';
import { withCount } from '../output/progress.ts';
import { plural } from '../output/text.ts';
import { labelFilter } from '../parse/parse.ts';
import { pickSandbox } from '../parse/resolve.ts';

interface Options {
  all?: boolean;
  label?: string[];
  tag?: string;
}

export const kill = defineCommand<Options>({
  name: 'kill',
  summary: 'kill sandboxes',
  description:
    'Sandboxes of workspaces stay with --all: `forkd workspace suspend` and `forkd workspace delete` are for them.',
  args: [
    {
      name: 'sandbox',
      summary: 'ids, names, or beginnings of ids',
      optional: true,
      variadic: true,
      completes: 'sandbox',
    },
  ],
  options: [
    { flags: '--all', summary: 'all sandboxes that are of no workspace', conflicts: ['tag'] },
    {
      flags: '--tag <tag>',
      summary: 'all of them that were started from this snapshot',
      completes: 'snapshot',
    },
    {
      flags: '--label <k=v>',
      summary: 'with --all: only sandboxes with this label; can be repeated',
      parse: labelFilter,
    },
  ],
  examples: [
    { line: 'forkd kill sb-1f web', summary: 'kill two sandboxes' },
    { line: 'forkd kill --all', summary: 'kill every sandbox, except those of workspaces' },
    { line: 'forkd kill --all --label team=core', summary: 'kill every sandbox with this label' },
    { line: 'forkd kill --tag py', summary: 'kill every child of this snapshot' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const isMany = options.all === true || options.tag !== undefined;
  if (isMany ? args.length > 0 : args.length === 0) {
    throw new UsageError('kill: Give the ids of sandboxes, --all or --tag.');
  }
  if (options.label !== undefined && !options.all) throw new UsageError('kill: --label goes with --all.');
  const client = await context.client();
  const { signal } = context;
  const { label, tag } = options;
  const query = { ...(label !== undefined && { label }), ...(tag !== undefined && { snapshot_tag: tag }) };
  const sandboxes = await client.listSandboxes({ signal }, query);
  const named = new Set(args.map((text) => pickSandbox(sandboxes, text)));
  const meant = isMany
    ? sandboxes.filter(({ workspace }) => workspace === undefined)
    : sandboxes.filter(({ id }) => named.has(id));
  const results = await withCount(context.out, 'kill', meant.length, (tick) =>
    Promise.allSettled(meant.map(({ id }) => Sandbox.kill(id, { client, signal }).finally(tick))),
  );
  const ended = meant.filter((_, index) => results[index]?.status === 'fulfilled');
  report(context, ended, isMany ? workspacesOf(sandboxes) : []);
  const failed = results.filter((result) => result.status === 'rejected');
  if (failed.length === 1) throw failed[0]?.reason;
  if (failed.length > 1) {
    const first = reportOf(failed[0]?.reason).error;
    throw new CodedError('guest_unreachable', `${failed.length} sandboxes could not be killed: ${first}`);
  }
}

/** `spared` has the names of the workspaces whose sandboxes keep running. */
function report({ out }: Context, ended: readonly SandboxInfo[], spared: readonly string[]): void {
  const ids = ended.map(({ id }) => id);
  if (out.isJson) out.json({ killed: ids, ...(spared.length > 0 && { kept_workspaces: spared }) });
  else for (const id of ids) out.line(id);
  if (spared.length > 0) {
    out.note(
      `${plural(spared.length, 'workspace')} not touched: ${spared.join(', ')}. \`forkd workspace\` suspends or deletes them.`,
    );
  }
  for (const name of workspacesOf(ended)) {
    out.warn(
      `Workspace "${name}" has lost what it did since it was last suspended. \`forkd workspace resume\` starts it again.`,
    );
  }
}

function workspacesOf(sandboxes: readonly SandboxInfo[]): string[] {
  return sandboxes.flatMap(({ workspace }) => workspace ?? []);
}
