import { limits } from '@forkd/api/constants';
import type { StartOptions } from '@forkd/sdk';
import type { OptionSpec } from '../command.ts';
import { collect, environment, seconds } from './parse.ts';

/** Options for starting a command in a guest. */
export interface ExecOptions {
  interactive?: boolean;
  tty?: boolean;
  env?: string[];
  workdir?: string;
  user?: string;
  timeout?: number;
  timeoutSecs?: number;
}

export const execOptions: readonly OptionSpec[] = [
  { flags: '-i, --interactive', summary: 'forward stdin' },
  { flags: '-t, --tty', summary: 'give the command a terminal; -it connects it to yours' },
  { flags: '-e, --env <k=v>', summary: 'set a variable; can be repeated', parse: collect },
  { flags: '-w, --workdir <dir>', summary: 'working directory' },
  { flags: '-u, --user <user>', summary: 'user to run as' },
  {
    flags: '--timeout <time>',
    summary: 'end the command after this time, such as 90, 15m or 2h',
    parse: seconds('--timeout', limits.execTimeoutSecsMax),
  },
  {
    flags: '--timeout-secs <secs>',
    summary: 'the same as --timeout',
    parse: seconds('--timeout-secs', limits.execTimeoutSecsMax),
    hidden: true,
  },
];

export function startOptions(options: ExecOptions, env: NodeJS.ProcessEnv): StartOptions {
  const timeoutSecs = options.timeout ?? options.timeoutSecs;
  return {
    stdin: options.interactive === true,
    env: options.env === undefined ? undefined : environment(options.env, env),
    cwd: options.workdir,
    user: options.user,
    timeoutMs: timeoutSecs === undefined ? undefined : timeoutSecs * 1000,
  };
}

/** Returns the command of `VERB PLACE [--] COMMAND…`. Only a `--` right after the place is removed. */
export function commandOf(args: readonly string[]): string[] {
  return args[0] === '--' ? args.slice(1) : [...args];
}
