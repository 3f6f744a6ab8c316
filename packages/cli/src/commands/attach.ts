import type { CommandInfo } from '@forkd/api';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { CommandError } from '../lib/errors.ts';
import { followCommand } from '../lib/follow.ts';
import { integer } from '../lib/parse.ts';
import { pickCommand, resolveSandbox } from '../lib/resolve.ts';
import { ellipsis, formatAge } from '../lib/text.ts';

type Options = { list?: boolean; fromOffset: number; stdin: boolean };

const ARGS_WIDTH_MAX = 48;

export const attach = defineCommand<Options>({
  name: 'attach',
  summary: 'take up the output of a command that runs or ran in a sandbox',
  description:
    'Without COMMAND it is the only one that runs. A child forked while a command ran has that command too, under the same id.\nstdin is forwarded to a command that has one (exec -i). Ctrl-C leaves the command running.',
  args: [
    { name: 'sandbox', summary: 'id, a beginning of it, or name', completes: 'sandbox' },
    { name: 'command', summary: 'id of the command, or a beginning of it', optional: true },
  ],
  options: [
    { flags: '--list', summary: 'list the commands of the sandbox' },
    {
      flags: '--from-offset <bytes>',
      summary: 'begin at this byte of its output',
      parse: integer('--from-offset', 0, Number.MAX_SAFE_INTEGER),
      default: 0,
    },
    { flags: '--no-stdin', summary: 'do not forward stdin' },
  ],
  examples: [
    { line: 'forkd attach --list sb-1f', summary: 'which commands there are' },
    { line: 'forkd attach sb-1f', summary: 'the one that runs, from its first byte' },
    { line: 'forkd attach sb-1f 3 --from-offset 4096', summary: 'the rest of a known one' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<number> {
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, args[0] ?? '', context);
  const commands = await client.listCommands(sandboxId, { signal: context.signal });
  if (options.list) {
    listCommands(context, commands);
    return 0;
  }
  const command = pickCommand(commands, args[1]);
  if (command === undefined) throw ambiguous(context, sandboxId, commands);
  const query = { offset: options.fromOffset, follow: true };
  const events = client.commandOutput(sandboxId, command.id, query, { signal: context.signal });
  const stdin = options.stdin && command.running ? 'offered' : 'none';
  const ending = await followCommand({ context, client, sandboxId, events, stdin, commandId: command.id });
  return ending.exitCode;
}

function ambiguous(context: Context, sandboxId: string, commands: CommandInfo[]): CommandError {
  if (commands.length === 0) {
    return new CommandError('not_found_command', `${sandboxId} has no command`, '`forkd exec -d` starts one');
  }
  if (!context.out.isJson) listCommands(context, commands);
  return new CommandError('ambiguous', `${sandboxId} has ${commands.length} commands`, 'name the one that is meant');
}

function listCommands(context: Context, commands: CommandInfo[]): void {
  if (context.out.isJson) {
    context.out.json(commands);
    return;
  }
  if (context.out.isQuiet) {
    for (const command of commands) context.out.line(command.id);
    return;
  }
  const rows = commands.map((command) => [
    command.id,
    String(command.pid),
    command.running ? 'running' : `exit ${command.exit_code ?? '?'}${command.timed_out ? ' (timeout)' : ''}`,
    formatAge(command.started_unix_ms / 1000),
    `${command.output_start}–${command.output_end}`,
    ellipsis(command.args.join(' '), ARGS_WIDTH_MAX),
  ]);
  context.out.table(['COMMAND', 'PID', 'STATUS', 'STARTED', 'OUTPUT', 'ARGS'], rows);
}
