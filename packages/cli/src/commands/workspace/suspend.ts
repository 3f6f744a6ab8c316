import { defineCommand, type Call } from '../../command.ts';
import { withProgress } from '../../output/progress.ts';

interface Options {
  diff?: boolean;
}

export const suspend = defineCommand<Options>({
  name: 'suspend',
  summary: 'keep the state of a workspace as a snapshot, and end its sandbox',
  description: 'Prints the tag of that snapshot.',
  args: [{ name: 'name', summary: 'name of the workspace', completes: 'workspace' }],
  options: [{ flags: '--diff', summary: 'accepted: only what changed is ever written', hidden: true }],
  examples: [{ line: 'forkd workspace suspend dev', summary: 'until `forkd workspace resume dev`' }],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const [name = ''] = args;
  const client = await context.client();
  const request = options.diff ? { diff: true } : {};
  const work = client.suspendWorkspace(name, request, { signal: context.signal });
  const info = await withProgress(context.out, 'suspend', name, work);
  if (context.out.isJson) context.out.json(info);
  else if (info.current_state_tag !== undefined) context.out.line(info.current_state_tag);
}
