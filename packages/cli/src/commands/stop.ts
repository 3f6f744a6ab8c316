import type { SandboxInfo } from '@forkd/api';
import { isForkdError, type ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { stopController } from '../lib/stop-controller.ts';
import { plural } from '../output/text.ts';

interface Options {
  kill?: boolean;
}

export const stop = defineCommand<Options>({
  name: 'stop',
  summary: 'stop the controller',
  description:
    'Its sandboxes keep running, and the next controller finds them again. With --kill they are killed first, those of workspaces too.',
  args: [],
  options: [{ flags: '--kill', summary: 'kill the sandboxes and end the pager too' }],
  examples: [
    { line: 'forkd stop', summary: 'sandboxes keep running' },
    { line: 'forkd stop --kill', summary: 'nothing keeps running' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const client = await running(context);
  if (client === undefined) {
    if (context.out.isJson) context.out.json({ stopped: false });
    else context.out.note('No controller runs.');
    return;
  }
  const sandboxes = await client.listSandboxes({ signal: context.signal });
  await stopController(client, options.kill === true, context.signal);
  report(context, sandboxes, options.kill === true);
}

function report({ out }: Context, sandboxes: readonly SandboxInfo[], areKilled: boolean): void {
  const ids = sandboxes.map(({ id }) => id);
  if (out.isJson) {
    out.json({ stopped: true, ...(areKilled ? { killed: ids } : { kept: ids }) });
  } else {
    const which = ids.length === 0 ? '' : `: ${ids.join(', ')}`;
    out.note(
      `The controller has ended. ${plural(ids.length, 'sandbox', 'sandboxes')} ${areKilled ? 'killed' : 'kept'}${which}.`,
    );
  }
  if (!areKilled) return;
  for (const { workspace } of sandboxes) {
    if (workspace !== undefined) out.warn(`Workspace "${workspace}" has lost what it did since it was last suspended.`);
  }
}

async function running(context: Context): Promise<ForkdClient | undefined> {
  try {
    return await context.runningClient();
  } catch (error) {
    if (isForkdError(error, 'controller_not_running')) return undefined;
    throw error;
  }
}
