import type { OptionSpec } from '../command.ts';
import { UsageError } from '../lib/errors.ts';

// Options that scripts for earlier `forkd` commands pass. Help does not show them.

/** An option that changes nothing here, for the reason `why`. */
export function accepted(flags: string, why: string): OptionSpec {
  return { flags, summary: `accepted: ${why}`, hidden: true };
}

/** An option that means something else here: its user is told what, and what to do instead. */
export function replaced(flags: string, why: string, hint: string): OptionSpec {
  const parse = () => {
    throw new UsageError(`${flags.split(' ')[0]}: ${why}`, hint);
  };
  return { flags, summary: 'answered with what to do instead', parse, hidden: true };
}

/** Earlier commands addressed the agent of a guest on the network. */
export const addressOptions: readonly OptionSpec[] = [
  replaced('--target <address>', 'A sandbox is named by its id, not by an address.', '`forkd ls` prints the ids.'),
  replaced(
    '--child <netns>',
    'A sandbox is named by its id, not by a network namespace.',
    '`forkd ls` prints the ids.',
  ),
];

/** Earlier commands built their images themselves. */
export const imageOptions: readonly OptionSpec[] = [
  replaced('--extra <package>', 'Packages are given one by one here.', 'Write --package NAME for each of them.'),
  accepted('--size-mib <mib>', 'a root image is as large as its files'),
  accepted('--cache <dir>', 'images are cached in the data directory'),
];
