import { pino } from 'pino';
import { describeBinaries, locateBinaries } from './binaries.ts';
import { Daemon } from './daemon.ts';
import { toApiError } from './errors.ts';
import type { Command, Options } from './options.ts';
import { LockedError } from './process/lock.ts';
import { ServiceManager } from './process/service-manager.ts';
import { probeAccelerator, probeFirecracker } from './runtime/probe.ts';
import { UsageError } from './usage-error.ts';

/** Runs a command that needs the whole controller. Returns the exit code; throws what `main` reports by itself. */
export function run(command: Exclude<Command, { run: 'help' | 'version' }>): Promise<number> {
  switch (command.run) {
    case 'serve':
      return serve(command.options);
    case 'probe':
      return probe(probeFirecracker);
    case 'probe accelerator':
      return probe(() => probeAccelerator(command.dataDir));
    case 'probe programs':
      return probe(async () => describeBinaries());
  }
}

async function serve(options: Options): Promise<number> {
  const log = pino({
    level: options.logLevel,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (level) => ({ level }) },
  });
  const stop = new AbortController();
  // A second signal finds the controller ending already.
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

async function probe(ask: () => Promise<object>): Promise<number> {
  try {
    process.stdout.write(`${JSON.stringify(await ask())}\n`);
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
