import { isForkdError, type ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import { stopController } from '../lib/stop-controller.ts';

type Options = { kill?: boolean };

export const stop = defineCommand<Options>({
  name: 'stop',
  summary: 'stop the controller',
  description: 'Its sandboxes run on, and are found again when it is started next; with --kill they end first.',
  args: [],
  options: [{ flags: '--kill', summary: 'end the sandboxes and the pager too' }],
  examples: [
    { line: 'forkd stop', summary: 'sandboxes run on' },
    { line: 'forkd stop --kill', summary: 'leaves nothing running' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const client = await running(context);
  if (client === undefined) {
    if (context.out.isJson) context.out.json({ stopped: false });
    else context.out.note('no controller runs');
    return;
  }
  await stopController(client, options.kill === true, context.signal);
  if (context.out.isJson) context.out.json({ stopped: true });
  else context.out.note('the controller has ended');
}

async function running(context: Call<unknown>['context']): Promise<ForkdClient | undefined> {
  try {
    return await context.runningClient();
  } catch (error) {
    if (isForkdError(error, 'controller_not_running')) return undefined;
    throw error;
  }
}
