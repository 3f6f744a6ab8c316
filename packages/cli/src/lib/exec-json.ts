import type { StartCommandRequest } from '@forkd/api';
import { errorFromEvent, ForkdError, type ForkdClient } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { endingOf, type Ending } from './follow.ts';
import { pumpStdin } from './stdin.ts';

/** `exec --json`: the same command, told at its end as `{stdout, stderr, exit_code}`. @returns its exit code. */
export async function execJson(
  context: Context,
  client: ForkdClient,
  sandboxId: string,
  request: StartCommandRequest,
): Promise<number> {
  const { signal } = context;
  const output: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] };
  const stdinAbort = new AbortController();
  let commandId: string | undefined;
  let pump: Promise<void> | undefined;
  let ending: Ending | undefined;
  try {
    for await (const event of client.startCommandEvents(sandboxId, request, { signal })) {
      if (event.type === 'started') {
        commandId = event.id;
        const stdin = request.stdin ? 'all' : 'none';
        const stream = context.out.streams.stdin;
        pump = pumpStdin({ client, sandboxId, commandId, stdin, stream, signal: stdinAbort.signal });
        pump.catch(() => {});
      } else if (event.type === 'stdout' || event.type === 'stderr') {
        output[event.type].push(Buffer.from(event.data, 'base64'));
      } else if (event.type === 'error') {
        throw errorFromEvent(event);
      } else if (event.type === 'exit') {
        ending = endingOf(event);
      }
    }
  } finally {
    stdinAbort.abort();
    await pump;
    if (commandId !== undefined) await client.deleteCommand(sandboxId, commandId).catch(() => {});
  }
  if (ending === undefined) throw new ForkdError('stream_cut', 'the output ended before the command did');
  context.out.json({
    stdout: Buffer.concat(output.stdout).toString('utf8'),
    stderr: Buffer.concat(output.stderr).toString('utf8'),
    exit_code: ending.exitCode,
    ...(ending.timedOut ? { timed_out: true } : {}),
  });
  return ending.exitCode;
}
