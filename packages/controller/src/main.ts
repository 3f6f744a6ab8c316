#!/usr/bin/env node
import { messageOf } from '@forkd/api/constants';
import { parseCommand, usage } from './options.ts';
import { UsageError } from './usage-error.ts';
import { version } from './version.ts';

/** Exit codes: 2 for a mistake in the command line, 1 for a failure. */
async function main(): Promise<number> {
  try {
    const command = parseCommand(process.argv.slice(2), process.env);
    if (command.run === 'help' || command.run === 'version') {
      process.stdout.write(command.run === 'help' ? usage : `${version}\n`);
      return 0;
    }
    // Loaded late: the daemon takes most of the start-up time, and the commands above do not need it.
    const { run } = await import('./run.ts');
    return await run(command);
  } catch (error) {
    process.stderr.write(`forkd-controller: ${messageOf(error)}\n`);
    if (error instanceof UsageError) process.stderr.write("'forkd-controller --help' lists the options.\n");
    return error instanceof UsageError ? 2 : 1;
  }
}

process.exitCode = await main();
