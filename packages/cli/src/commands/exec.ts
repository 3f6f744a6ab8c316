import { Commands } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import { runAttached } from '../lib/attached.ts';
import { detachKeysOption, keysOf } from '../lib/detach-keys.ts';
import { runOnTerminal } from '../lib/run-on-terminal.ts';
import { terminalSize } from '../lib/terminal.ts';
import { commandOf, execOptions, startOptions, type ExecOptions } from '../parse/exec-options.ts';
import { addressOptions } from '../parse/older-options.ts';
import { resolveSandbox } from '../parse/resolve.ts';

type Options = ExecOptions & { detach?: boolean; detachKeys?: number[] };

export const exec = defineCommand<Options>({
  name: 'exec',
  summary: 'run a command in a sandbox',
  description:
    'Prints the output as it arrives, and exits with the exit code of the command, or with 124 after its --timeout.\nWithout a command, the ENTRYPOINT and CMD of the image run. Ctrl-C goes to the command. The third Ctrl-C ends it.\nWith -it the command has a terminal, all keys go to it, and Ctrl-P Ctrl-Q leaves it running.',
  args: [
    { name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' },
    { name: 'args', summary: 'the command and its arguments', optional: true, variadic: true },
  ],
  options: [
    ...execOptions,
    { flags: '-d, --detach', summary: 'leave the command running, and print its id', conflicts: ['interactive'] },
    detachKeysOption,
    ...addressOptions,
  ],
  examples: [
    { line: 'forkd exec sb-1f -- python3 -V', summary: 'run a program' },
    { line: 'cat a.tar | forkd exec -i sb-1f -- tar x', summary: 'with stdin from a file' },
    { line: 'forkd exec -it sb-1f -- python3', summary: 'on a terminal; `forkd shell` opens a shell' },
    { line: 'forkd exec -d sb-1f -- sleep 600', summary: 'in the background; `forkd attach` follows it' },
  ],
  passThrough: true,
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<number> {
  const [name = '', ...rest] = args;
  const command = commandOf(rest);
  const start = startOptions(options, context.env);
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, name, context);
  const commands = new Commands(client, sandboxId);
  if (!options.detach && options.tty) {
    const keys = options.interactive ? keysOf(options.detachKeys) : null;
    return runOnTerminal(context, { client, sandboxId, command, start, keys });
  }
  if (!options.detach) return runAttached(context, commands, command, start);
  const pty = options.tty ? terminalSize(context) : undefined;
  const info = await commands.start(command, { ...start, pty, signal: context.signal });
  if (context.out.isJson) context.out.json(info);
  else context.out.line(info.id);
  return 0;
}
