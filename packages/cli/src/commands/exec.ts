import { defineCommand, type Call } from '../command.ts';
import { runAttached } from '../lib/attached.ts';
import { UsageError } from '../lib/errors.ts';
import { commandOf, execOptions, startRequest, type ExecOptions } from '../lib/exec-options.ts';
import { resolveSandbox } from '../lib/resolve.ts';

type Options = ExecOptions & { detach?: boolean };

export const exec = defineCommand<Options>({
  name: 'exec',
  summary: 'run a command in a sandbox',
  description:
    'Its output comes as it is written, its exit code is ours; 124 when it ran out of its --timeout.\nCtrl-C goes to the command; the third one leaves it.',
  args: [
    { name: 'sandbox', summary: 'id, a beginning of it, or name', completes: 'sandbox' },
    { name: 'args', summary: 'the command and its arguments', variadic: true },
  ],
  options: [
    ...execOptions,
    { flags: '-d, --detach', summary: 'leave it running, and print its id', conflicts: ['interactive'] },
  ],
  examples: [
    { line: 'forkd exec sb-1f -- python3 -V', summary: 'one command' },
    { line: 'cat a.tar | forkd exec -i sb-1f -- tar x', summary: 'with stdin' },
    { line: 'forkd exec -d sb-1f -- sleep 600', summary: 'in the background; see `forkd attach`' },
  ],
  passThrough: true,
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<number> {
  const [name = '', ...rest] = args;
  const command = commandOf(rest);
  if (command.length === 0) throw new UsageError('exec: the command is missing');
  const request = startRequest(command, options, context.env);
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, name, context);
  if (!options.detach) return runAttached(context, client, sandboxId, request);
  const info = await client.startCommand(sandboxId, request, { signal: context.signal });
  if (context.out.isJson) context.out.json(info);
  else context.out.line(info.id);
  return 0;
}
