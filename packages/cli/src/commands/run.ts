import { Commands } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import { runAttached } from '../lib/attached.ts';
import { DetachKeys } from '../lib/detach-keys.ts';
import { UsageError } from '../lib/errors.ts';
import { checkTerminal, runOnTerminal } from '../lib/run-on-terminal.ts';
import { withThrowaway } from '../lib/throwaway.ts';
import { commandOf, execOptions, startOptions, type ExecOptions } from '../parse/exec-options.ts';
import { hostFields, hostOptions, nameOption, type HostOptions } from '../parse/fork-options.ts';
import { networkOf, networkOptions, type NetworkOptions } from '../parse/network-options.ts';
import { imageOptions, replaced } from '../parse/older-options.ts';
import { tag } from '../parse/parse.ts';
import { resolveSnapshot } from '../parse/resolve.ts';

type Options = ExecOptions & HostOptions & NetworkOptions & { tag?: string; name?: string };

export const run = defineCommand<Options>({
  name: 'run',
  summary: 'run one command in a new sandbox, and kill the sandbox after it',
  description:
    'Exits with the exit code of the command. Without a command, the ENTRYPOINT and CMD of the image run, and with -t the shell of the user.\nCtrl-C goes to the command first. The sandbox is killed even if forkd is interrupted or its output is closed. If forkd itself is killed, the sandbox ends within 90 seconds.',
  args: [
    {
      name: 'args',
      summary: 'the snapshot (unless --tag names it), then the command and its arguments',
      optional: true,
      variadic: true,
    },
  ],
  options: [
    {
      flags: '--tag <tag>',
      summary: 'snapshot to start from: its tag, or the beginning of it',
      parse: tag,
      completes: 'snapshot',
    },
    nameOption,
    ...execOptions,
    ...hostOptions,
    ...networkOptions,
    replaced(
      '--image <image>',
      'A command runs in a child of a template.',
      'Make the template once with `forkd from-image IMAGE --tag TAG`, then `forkd run TAG -- …`.',
    ),
    ...imageOptions,
  ],
  examples: [
    { line: 'forkd run py -- python3 -c "print(6 * 7)"', summary: 'run a command in a new child' },
    { line: 'forkd run -it py -- python3', summary: 'on a terminal' },
    { line: 'forkd run web', summary: 'run what the image of the snapshot says' },
    { line: 'forkd run --tag py --timeout 90s -- ./job', summary: 'after 90 seconds it is ended, with exit code 124' },
  ],
  passThrough: true,
  run: runOnce,
});

async function runOnce({ context, args, options }: Call<Options>): Promise<number> {
  const [first, ...rest] = args;
  const tagText = options.tag ?? first;
  if (tagText === undefined) throw new UsageError('run: The snapshot is missing.');
  const command = commandOf(options.tag === undefined ? rest : args);
  const start = startOptions(options, context.env);
  // No keys leave the terminal: nobody could come back to it.
  const keys = options.interactive ? new DetachKeys([]) : null;
  if (options.tty) checkTerminal(context, keys);
  const client = await context.client();
  const network = networkOf(options);
  const fork = {
    snapshot_tag: await resolveSnapshot(client, tagText, context),
    ...hostFields(options),
    ...(network !== undefined && { network }),
    ...(options.name !== undefined && { name: options.name }),
  };
  return withThrowaway(context, client, fork, (sandboxId) =>
    options.tty
      ? runOnTerminal(context, { client, sandboxId, command, start, keys })
      : runAttached(context, new Commands(client, sandboxId), command, start),
  );
}
