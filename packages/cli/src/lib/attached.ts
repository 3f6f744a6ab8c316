import type { StartCommandRequest } from '@forkd/api';
import type { ForkdClient } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { execJson } from './exec-json.ts';
import { followCommand, type Ending } from './follow.ts';

const KILL_AFTER_INTERRUPTS = 3;

/** Runs a command in a sandbox with its output as ours, or with --json as one object. @returns the exit code for us. */
export async function runAttached(
  context: Context,
  client: ForkdClient,
  sandboxId: string,
  request: StartCommandRequest,
): Promise<number> {
  if (context.out.isJson) return execJson(context, client, sandboxId, request);
  const ending = await follow(context, client, sandboxId, request);
  if (ending.timedOut) context.out.warn(`the command was ended after its ${request.timeout_secs} s`);
  return ending.exitCode;
}

async function follow(
  context: Context,
  client: ForkdClient,
  sandboxId: string,
  request: StartCommandRequest,
): Promise<Ending> {
  let commandId: string | undefined;
  let interrupts = 0;
  const restore = context.interrupts.divert((signal) => {
    interrupts += 1;
    if (commandId === undefined || interrupts >= KILL_AFTER_INTERRUPTS) {
      context.interrupts.abort(signal);
      return;
    }
    // Whether it arrived is seen by what the command does; one that has just ended needs it no more.
    client.signalCommand(sandboxId, commandId, signal.slice('SIG'.length)).catch(() => {});
  });
  try {
    const events = client.startCommandEvents(sandboxId, request, { signal: context.signal });
    const stdin = request.stdin ? 'all' : 'none';
    const onStarted = (id: string) => (commandId = id);
    return await followCommand({ context, client, sandboxId, events, stdin, onStarted });
  } finally {
    restore();
    // The session has told all that it had. After an abort it is the user's wish that it ends, as far as it can be had.
    if (commandId !== undefined) await client.deleteCommand(sandboxId, commandId).catch(() => {});
  }
}
