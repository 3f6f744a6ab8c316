/** What holds for all verbs, as names and what they mean: for the reference and the manual page. */
type Fact = readonly [name: string, meaning: string];

export const about =
  'forkd starts sandboxes, which are real virtual machines, as children of a warmed snapshot, and branches them while they run. ' +
  'The command speaks to a controller: the one that --daemon-url or FORKD_URL names, or else the one of the data directory, ' +
  'which it starts when none runs.';

export const habits: readonly string[] = [
  'Results go to stdout, remarks and progress to stderr. With -q there are results only; with --json stdout has JSON and nothing else.',
  'A sandbox is given by its id, by a beginning of it that no other has (with or without sb-), by its name, or by the name of its workspace; a snapshot by its tag or a beginning of it. rmi takes whole tags only.',
  'A time is written as 90 (seconds), 90s, 15m, 2h or 7d. Sizes are in MiB. A label is KEY=VALUE.',
  'The first Ctrl-C ends what is being done, and what was started for it; the second one ends the command at once. In exec and run it goes to the command in the guest, and the third one leaves that.',
];

export const exitCodes: readonly Fact[] = [
  ['0', 'done'],
  ['1', 'it failed; stderr says why, and what can be done'],
  ['2', 'the command line cannot be'],
  ['124', 'exec, run, attach: the command ran out of its --timeout'],
  ['130, 143', 'ended by Ctrl-C, by SIGTERM'],
  ['other', 'exec, run, attach, eval: that of the command; 128 + the signal that ended it'],
];

export const environment: readonly Fact[] = [
  ['FORKD_URL', 'the controller to use, as --daemon-url'],
  ['FORKD_TOKEN', 'its bearer token, as --daemon-token'],
  ['FORKD_DATA_DIR', 'the data directory of the local controller, as --data-dir'],
  ['FORKD_SOCKET', 'its unix socket, where that is not run/controller.sock in the data directory'],
  ['FORKD_CONTROLLER_BIN', 'the controller program to start'],
  ['NO_COLOR', 'no colours'],
  ['FORCE_COLOR', 'colours although stdout is no terminal'],
];

export const files: readonly Fact[] = [
  ['/var/lib/forkd', 'the data directory of root; that of others is $XDG_DATA_HOME/forkd (else ~/.local/share/forkd)'],
  ['run/controller.sock', 'in it: where the local controller listens'],
  ['run/controller.log', 'in it: what the local controller has logged'],
];
