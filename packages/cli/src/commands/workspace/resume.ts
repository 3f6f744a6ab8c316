import { defineCommand, type Call } from '../../command.ts';
import { withProgress } from '../../output/progress.ts';
import { printRunning } from './print.ts';

export const resume = defineCommand({
  name: 'resume',
  summary: 'start the sandbox of a workspace where it was suspended',
  description: 'Prints the id of the sandbox.',
  args: [{ name: 'name', summary: 'name of the workspace', completes: 'workspace' }],
  options: [],
  examples: [{ line: 'ID=$(forkd workspace resume -q dev)', summary: 'for a script' }],
  run,
});

async function run({ context, args }: Call<unknown>): Promise<void> {
  const [name = ''] = args;
  const client = await context.client();
  const work = client.resumeWorkspace(name, { signal: context.signal });
  printRunning(context, await withProgress(context.out, 'resume', name, work));
}
