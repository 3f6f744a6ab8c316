import type { StartCommandRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import type { OptionSpec } from '../command.ts';
import { collect, environment, seconds } from './parse.ts';

/** How a command is started in a guest. */
export type ExecOptions = {
  interactive?: boolean;
  env?: string[];
  workdir?: string;
  user?: string;
  timeout?: number;
};

export const execOptions: readonly OptionSpec[] = [
  { flags: '-i, --interactive', summary: 'forward stdin' },
  { flags: '-e, --env <k=v>', summary: 'set a variable, several times', parse: collect },
  { flags: '-w, --workdir <dir>', summary: 'directory to run in' },
  { flags: '-u, --user <user>', summary: 'user to run as' },
  {
    flags: '--timeout <time>',
    summary: 'end it after this time, such as 90, 15m or 2h',
    parse: seconds('--timeout', limits.execTimeoutSecsMax),
  },
];

export function startRequest(args: string[], options: ExecOptions, env: NodeJS.ProcessEnv): StartCommandRequest {
  const request: StartCommandRequest = { args, stdin: options.interactive === true };
  if (options.env !== undefined) request.env = environment(options.env, env);
  if (options.workdir !== undefined) request.cwd = options.workdir;
  if (options.user !== undefined) request.user = options.user;
  if (options.timeout !== undefined) request.timeout_secs = options.timeout;
  return request;
}

/** The command of `VERB PLACE [--] COMMAND…`. Only the separator right after the place is ours. */
export function commandOf(args: readonly string[]): string[] {
  return args[0] === '--' ? args.slice(1) : [...args];
}
