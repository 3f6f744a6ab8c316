import { defineCommand, type Call } from '../command.ts';
import { detachKeysOption, keysOf } from '../lib/detach-keys.ts';
import { runOnTerminal } from '../lib/run-on-terminal.ts';
import { execOptions, startOptions, type ExecOptions } from '../parse/exec-options.ts';
import { resolveSandbox } from '../parse/resolve.ts';

type Options = ExecOptions & { detachKeys?: number[] };

/** Options of `exec` that a shell has no use for. */
const NOT_OF_SHELLS = ['-i,', '-t,', '--timeout'];

export const shell = defineCommand<Options>({
  name: 'shell',
  summary: 'open a shell in a sandbox',
  description:
    "Starts the user's login shell on a terminal, as `forkd exec -it` does with any program, and exits with its exit code.\nCtrl-P Ctrl-Q leaves it running, and `forkd attach` connects to it again, in a child forked meanwhile, too.",
  args: [{ name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' }],
  options: [
    ...execOptions.filter(({ flags }) => !NOT_OF_SHELLS.some((one) => flags.startsWith(one))),
    detachKeysOption,
  ],
  examples: [
    { line: 'forkd shell sb-1f', summary: 'sit down at a sandbox' },
    { line: 'forkd shell -u nobody -w /tmp web', summary: 'as another user, in another directory' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<number> {
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, args[0] ?? '', context);
  const start = startOptions(options, context.env);
  return runOnTerminal(context, { client, sandboxId, command: [], start, keys: keysOf(options.detachKeys) });
}
