import type { CreateWorkspaceRequest } from '@forkd/api';
import { defineCommand, type Call } from '../../command.ts';
import { withProgress } from '../../output/progress.ts';
import { hostFields, hostOptions, type HostOptions } from '../../parse/fork-options.ts';
import { nameOf } from '../../parse/parse.ts';
import { resolveSnapshot } from '../../parse/resolve.ts';
import { printRunning } from './print.ts';

type Options = HostOptions & { snapshot: string };

export const create = defineCommand<Options>({
  name: 'create',
  summary: 'create a workspace, and start its sandbox',
  description: 'Prints the id of the sandbox.',
  args: [{ name: 'name', summary: 'name of the workspace' }],
  options: [
    {
      flags: '--snapshot <tag>',
      summary: 'snapshot to start from: its tag, or the beginning of it',
      required: true,
      completes: 'snapshot',
    },
    ...hostOptions,
  ],
  examples: [
    { line: 'forkd workspace create dev --snapshot py', summary: 'from a template' },
    { line: 'ID=$(forkd workspace create -q dev --snapshot py --memory-limit-mib 1024)', summary: 'for a script' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const name = nameOf(args[0] ?? '');
  const client = await context.client();
  const request: CreateWorkspaceRequest = {
    name,
    snapshot_tag: await resolveSnapshot(client, options.snapshot, context),
    ...hostFields(options),
  };
  const work = client.createWorkspace(request, { signal: context.signal });
  printRunning(context, await withProgress(context.out, 'create', name, work));
}
