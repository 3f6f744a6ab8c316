import { isForkdError } from '@forkd/sdk';
import { cliVersion } from '../cli-version.ts';
import { defineCommand, type Call } from '../command.ts';

export const version = defineCommand({
  name: 'version',
  summary: 'print the versions of forkd and of the controller',
  args: [],
  options: [],
  examples: [{ line: 'forkd version --json', summary: 'for a script' }],
  run,
});

async function run({ context }: Call<Record<string, unknown>>): Promise<void> {
  const client = cliVersion();
  const controller = await controllerVersion(context);
  if (context.out.isJson) {
    context.out.json({ client, controller });
    return;
  }
  context.out.line(`forkd ${client}`);
  context.out.line(`controller ${controller ?? 'does not run'}`);
}

async function controllerVersion(context: Call<unknown>['context']): Promise<string | null> {
  try {
    const running = await context.runningClient();
    return (await running.version({ signal: context.signal })).version;
  } catch (error) {
    if (isForkdError(error, 'controller_not_running')) return null;
    throw error;
  }
}
