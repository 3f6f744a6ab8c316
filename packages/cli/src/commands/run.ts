import { defineCommand, type Call } from '../command.ts';
import { runAttached } from '../lib/attached.ts';
import { UsageError } from '../lib/errors.ts';
import { commandOf, execOptions, startRequest, type ExecOptions } from '../lib/exec-options.ts';
import { hostFields, hostOptions, nameOption, type HostOptions } from '../lib/fork-options.ts';
import { tag } from '../lib/parse.ts';
import { resolveSnapshot } from '../lib/resolve.ts';
import { withThrowaway } from '../lib/throwaway.ts';

type Options = ExecOptions & HostOptions & { tag?: string; name?: string };

export const run = defineCommand<Options>({
  name: 'run',
  summary: 'fork a sandbox, run one command in it, and end it',
  description:
    'The exit code is that of the command. The sandbox ends with it, and when it is interrupted; Ctrl-C goes to the command first.',
  args: [{ name: 'args', summary: 'TAG, unless --tag gives it, and the command with its arguments', variadic: true }],
  options: [
    {
      flags: '--tag <tag>',
      summary: 'snapshot to start from, or a beginning of its tag',
      parse: tag,
      completes: 'snapshot',
    },
    nameOption,
    ...execOptions,
    ...hostOptions,
  ],
  examples: [
    { line: 'forkd run py -- python3 -c "print(6 * 7)"', summary: 'one command in a child of its own' },
    { line: 'forkd run --tag py --timeout 90s -- ./job', summary: 'ended after 90 seconds, with exit code 124' },
  ],
  passThrough: true,
  run: runOnce,
});

async function runOnce({ context, args, options }: Call<Options>): Promise<number> {
  const [first = '', ...rest] = args;
  const tagText = options.tag ?? first;
  const command = commandOf(options.tag === undefined ? rest : args);
  if (command.length === 0) throw new UsageError('run: the command is missing');
  const request = startRequest(command, options, context.env);
  const client = await context.client();
  const fork = {
    snapshot_tag: await resolveSnapshot(client, tagText, context),
    ...hostFields(options),
    ...(options.name !== undefined && { name: options.name }),
  };
  return withThrowaway(context, client, fork, (sandboxId) => runAttached(context, client, sandboxId, request));
}
