import type { StartCommandRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { UsageError } from '../lib/errors.ts';
import { followCommand, type Ending } from '../lib/follow.ts';
import { collect, environment, seconds } from '../lib/parse.ts';
import { resolveSandbox } from '../lib/resolve.ts';
import { execJson } from './exec-json.ts';

type Options = {
  interactive?: boolean;
  detach?: boolean;
  env?: string[];
  workdir?: string;
  user?: string;
  timeout?: number;
};

const KILL_AFTER_INTERRUPTS = 3;

export const exec = defineCommand<Options>({
  name: 'exec',
  summary: 'run a command in a sandbox',
  description:
    'Its output comes as it is written, its exit code is ours; 124 when it ran out of its --timeout.\nCtrl-C goes to the command; the third one leaves it.',
  args: [
    { name: 'sandbox', summary: 'id, or a beginning of it' },
    { name: 'args', summary: 'the command and its arguments', variadic: true },
  ],
  options: [
    { flags: '-i, --interactive', summary: 'forward stdin' },
    { flags: '-d, --detach', summary: 'leave it running, and print its id', conflicts: ['interactive'] },
    { flags: '-e, --env <K=V>', summary: 'set a variable, several times', parse: collect },
    { flags: '-w, --workdir <dir>', summary: 'directory to run in' },
    { flags: '-u, --user <user>', summary: 'user to run as' },
    {
      flags: '--timeout <secs>',
      summary: 'end it after this time',
      parse: seconds('--timeout', limits.execTimeoutSecsMax),
    },
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
  // Only the separator right after the sandbox is ours: a later one belongs to the command.
  const command = rest[0] === '--' ? rest.slice(1) : rest;
  if (command.length === 0) throw new UsageError('exec: the command is missing');
  const request = startRequest(command, options, context.env);
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, name, context);
  if (options.detach) return startDetached(context, client, sandboxId, request);
  if (context.out.isJson) return execJson(context, client, sandboxId, request);
  const ending = await runAttached(context, client, sandboxId, request);
  if (ending.timedOut) context.out.warn(`the command was ended after its ${options.timeout} s`);
  return ending.exitCode;
}

function startRequest(args: string[], options: Options, env: NodeJS.ProcessEnv): StartCommandRequest {
  const request: StartCommandRequest = { args, stdin: options.interactive === true };
  if (options.env !== undefined) request.env = environment(options.env, env);
  if (options.workdir !== undefined) request.cwd = options.workdir;
  if (options.user !== undefined) request.user = options.user;
  if (options.timeout !== undefined) request.timeout_secs = options.timeout;
  return request;
}

async function startDetached(
  context: Context,
  client: ForkdClient,
  sandboxId: string,
  request: StartCommandRequest,
): Promise<number> {
  const info = await client.startCommand(sandboxId, request, { signal: context.signal });
  if (context.out.isJson) context.out.json(info);
  else context.out.line(info.id);
  return 0;
}

async function runAttached(
  context: Context,
  client: ForkdClient,
  sandboxId: string,
  request: StartCommandRequest,
): Promise<Ending> {
  let commandId: string | undefined;
  let interrupts = 0;
  const restore = context.interrupts.divert((signal) => {
    interrupts += 1;
    if (commandId === undefined || interrupts >= KILL_AFTER_INTERRUPTS) {
      context.interrupts.abort(signal);
      return;
    }
    // Whether it arrived is seen by what the command does; one that has just ended needs it no more.
    client.signalCommand(sandboxId, commandId, signal.slice('SIG'.length)).catch(() => {});
  });
  try {
    const events = client.startCommandEvents(sandboxId, request, { signal: context.signal });
    const stdin = request.stdin ? 'all' : 'none';
    const onStarted = (id: string) => (commandId = id);
    return await followCommand({ context, client, sandboxId, events, stdin, onStarted });
  } finally {
    restore();
    // The session has told all that it had. After an abort it is the user's wish that it ends, as far as it can be had.
    if (commandId !== undefined) await client.deleteCommand(sandboxId, commandId).catch(() => {});
  }
}
