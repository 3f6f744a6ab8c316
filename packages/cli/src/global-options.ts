import type { OptionSpec } from './command.ts';

/** The options that every command takes, before its name or after it. */
export const globalOptions: readonly OptionSpec[] = [
  { flags: '--json', summary: 'print JSON, and errors as {error, code, hint} on stderr' },
  { flags: '--daemon-url <url>', summary: 'controller to use: http://… or unix:/path (env FORKD_URL)' },
  { flags: '--daemon-token <token>', summary: 'bearer token for the controller (env FORKD_TOKEN)' },
  {
    flags: '--data-dir <dir>',
    summary: 'data directory of the local controller (env FORKD_DATA_DIR)',
    completes: 'directory',
  },
  { flags: '-q, --quiet', summary: 'print results only, no remarks' },
];
