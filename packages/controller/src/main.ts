#!/usr/bin/env node
import { pino } from 'pino';

import { locateBinaries } from './binaries.ts';
import { Daemon } from './daemon.ts';
import { messageOf, toApiError } from './errors.ts';
import type { Options } from './options.ts';
import { parseCommand, usage, UsageError } from './options.ts';
import { LockedError } from './process/lock.ts';
import { ServiceManager } from './process/service-manager.ts';
import { probeFirecracker } from './runtime/probe.ts';
import { version } from './version.ts';

/** Exit codes: 2 for a mistake in the command line, 1 for a failure. */
async function main(): Promise<number> {
  try {
    const command = parseCommand(process.argv.slice(2), process.env);
    if (command.run === 'serve') return await serve(command.options);
    if (command.run === 'probe') return await probe();
    process.stdout.write(command.run === 'help' ? usage : `${version}\n`);
    return 0;
  } catch (error) {
    process.stderr.write(`forkd-controller: ${messageOf(error)}\n`);
    if (error instanceof UsageError) process.stderr.write("'forkd-controller --help' lists the options.\n");
    return error instanceof UsageError ? 2 : 1;
  }
}

async function serve(options: Options): Promise<number> {
  const log = pino({ level: options.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime });
  const stop = new AbortController();
  // A second one finds it ending already.
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.on(name, () => stop.abort(name));
  const reload = new EventTarget();
  process.on('SIGHUP', () => reload.dispatchEvent(new Event('reload')));
  const manager = ServiceManager.fromEnv(process.env, log);
  try {
    await Daemon.run(options, locateBinaries(), log, { stop: stop.signal, reload, manager });
    return 0;
  } catch (error) {
    if (error instanceof UsageError || error instanceof LockedError) throw error;
    if (toApiError(error).class === 'bug') log.fatal({ err: error }, 'the controller failed');
    return fail(error);
  }
}

async function probe(): Promise<number> {
  try {
    process.stdout.write(`${JSON.stringify(await probeFirecracker())}\n`);
    return 0;
  } catch (error) {
    return fail(error);
  }
}

function fail(error: unknown): number {
  const { message, hint } = toApiError(error);
  process.stderr.write(`forkd-controller: ${message}\n${hint}\n`);
  return 1;
}

process.exitCode = await main();
