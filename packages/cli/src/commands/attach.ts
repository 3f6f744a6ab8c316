import type { CommandInfo } from '@forkd/api';
import { CodedError } from '@forkd/api/constants';
import { CommandHandle, Ptys } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { detachKeysOption, keysOf } from '../lib/detach-keys.ts';
import { followCommand } from '../lib/follow.ts';
import { runTerminal } from '../lib/terminal.ts';
import { ellipsis, formatAge } from '../output/text.ts';
import { integer } from '../parse/parse.ts';
import { pickCommand, resolveSandbox } from '../parse/resolve.ts';

interface Options {
  list?: boolean;
  fromOffset: number;
  stdin: boolean;
  detachKeys?: number[];
}

const ARGS_WIDTH_MAX = 48;

export const attach = defineCommand<Options>({
  name: 'attach',
  summary: 'print the output of a command in a sandbox, and follow it',
  description:
    'Without COMMAND it is the only command that runs. A child forked while a command ran has that command too, with the same id.\nForwards stdin to a command that was started with one (exec -i). Ctrl-C leaves the command running.\nA command with a terminal (exec -it, shell) is connected to yours: its screen is drawn, and Ctrl-P Ctrl-Q leaves it.',
  args: [
    { name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' },
    { name: 'command', summary: 'id of the command, or the beginning of it', optional: true },
  ],
  options: [
    { flags: '--list', summary: 'list the commands of the sandbox' },
    {
      flags: '--from-offset <bytes>',
      summary: 'start at this byte of the output',
      parse: integer('--from-offset', 0, Number.MAX_SAFE_INTEGER),
      default: 0,
    },
    { flags: '--no-stdin', summary: 'do not forward stdin' },
    detachKeysOption,
  ],
  examples: [
    { line: 'forkd attach --list sb-1f', summary: 'list the commands' },
    { line: 'forkd attach sb-1f', summary: 'follow the command that runs, from its first byte' },
    { line: 'forkd attach sb-1f c-5d', summary: 'the terminal of a command, after Ctrl-P Ctrl-Q' },
    { line: 'forkd attach sb-1f 3 --from-offset 4096', summary: 'the rest of the output of command 3' },
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
  if (command.pty !== undefined && context.out.streams.stdin.isTTY) {
    return attachTerminal(context, new Ptys(client, sandboxId), command.id, options);
  }
  const query = { offset: options.fromOffset, follow: true };
  const events = client.commandOutput(sandboxId, command.id, query, { signal: context.signal });
  // The end of an input that is no terminal would not end a program that has one.
  const stdin = options.stdin && command.running && command.pty === undefined ? 'offered' : 'none';
  const handle = new CommandHandle(client, sandboxId, command, events);
  const ending = await followCommand({ context, handle, stdin });
  return ending.exitCode;
}

/** Connects to a terminal: to its screen, or to its output from an offset on. */
async function attachTerminal(context: Context, ptys: Ptys, id: string, options: Options): Promise<number> {
  const offset = options.fromOffset > 0 ? options.fromOffset : undefined;
  const handle = await ptys.connect(id, { offset, signal: context.signal });
  const ending = await runTerminal(context, ptys, handle, options.stdin ? keysOf(options.detachKeys) : null);
  return ending?.exitCode ?? 0;
}

function ambiguous(context: Context, sandboxId: string, commands: CommandInfo[]): CodedError {
  if (commands.length === 0) {
    return new CodedError('not_found_command', `Sandbox ${sandboxId} has no command.`, {
      hint: '`forkd exec -d` starts one.',
    });
  }
  if (!context.out.isJson) listCommands(context, commands);
  return new CodedError('ambiguous', `Sandbox ${sandboxId} has ${commands.length} commands.`, {
    hint: 'Give the id of one of them.',
  });
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
    command.pty === undefined ? '-' : `${command.pty.cols}x${command.pty.rows}`,
    command.running ? 'running' : `exit ${command.exit_code ?? '?'}${command.timed_out ? ' (timeout)' : ''}`,
    formatAge(command.started_unix_ms / 1000),
    `${command.output_start}–${command.output_end}`,
    ellipsis(command.args.join(' '), ARGS_WIDTH_MAX),
  ]);
  context.out.table(['COMMAND', 'PID', 'TERMINAL', 'STATUS', 'STARTED', 'OUTPUT', 'ARGS'], rows);
}
