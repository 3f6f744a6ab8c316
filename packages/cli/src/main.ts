#!/usr/bin/env node
import { runCli } from './cli.ts';

const EPIPE_EXIT_CODE = 141;

// The reader of our output went away, as `head` does: nothing is left to do, and nobody to tell.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(EPIPE_EXIT_CODE);
});

// Not process.exit: what is still on its way to a pipe would be lost.
process.exitCode = await runCli(process.argv.slice(2), process, process.env);
