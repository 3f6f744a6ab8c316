#!/usr/bin/env node
import { runCli } from './cli.ts';

const exitCode = await runCli(process.argv.slice(2), process, process.env);
// Set exitCode, as process.exit would lose output that is still on its way to a pipe. It is set already if the output was lost.
process.exitCode ||= exitCode;
