/** Facts that apply to all commands, for the reference and the manual page. */
type Fact = readonly [name: string, meaning: string];

export const ABOUT =
  'forkd starts sandboxes, which are real virtual machines, as children of a warmed-up snapshot, and branches them while they run. ' +
  'It talks to a controller: the one that --daemon-url or FORKD_URL names, or the one of the data directory, ' +
  'which it starts if none runs.';

export const habits: readonly string[] = [
  'Results go to stdout, remarks and progress to stderr. With -q there are no remarks. With --json, stdout is JSON and nothing else.',
  'Name a sandbox by its id, by a unique beginning of its id (with or without sb-), by its name, or by the name of its workspace. Name a snapshot by its tag or a unique beginning of it. rmi takes whole tags only.',
  'Write a time as 90 (seconds), 90s, 15m, 2h or 7d, and a label as KEY=VALUE. Sizes are in MiB.',
  'The first Ctrl-C stops the command and cleans up; the second one ends forkd at once. In exec and run, Ctrl-C goes to the command in the guest, and the third one ends it.',
];

export const exitCodes: readonly Fact[] = [
  ['0', 'success'],
  ['1', 'failure; stderr says why, and what to do'],
  ['2', 'invalid command line'],
  ['124', 'exec, run, attach: the command was ended by its --timeout'],
  ['129, 130, 141, 143', 'ended by a closed terminal, Ctrl-C, a closed pipe or SIGTERM'],
  ['other', 'exec, run, attach, eval: exit code of the command; 128 + the signal that ended it'],
];

export const environment: readonly Fact[] = [
  ['FORKD_URL', 'controller to use, as --daemon-url'],
  ['FORKD_TOKEN', 'bearer token for the controller, as --daemon-token'],
  ['FORKD_DATA_DIR', 'data directory of the local controller, as --data-dir'],
  ['FORKD_SOCKET', 'unix socket of the local controller (default: run/controller.sock in the data directory)'],
  ['FORKD_CONTROLLER_BIN', 'controller program to start'],
  ['NO_COLOR', 'no colours'],
  ['FORCE_COLOR', 'colours even if stdout is not a terminal'],
];

export const files: readonly Fact[] = [
  ['/var/lib/forkd', 'data directory of root; of other users $XDG_DATA_HOME/forkd or ~/.local/share/forkd'],
  ['run/controller.sock', 'in the data directory: socket of the local controller'],
  ['run/controller.log', 'in the data directory: log of the local controller'],
];
