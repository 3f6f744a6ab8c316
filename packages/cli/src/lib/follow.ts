import type { CommandEvent } from '@forkd/api';
import { errorFromEvent, ForkdError, type ForkdClient } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { exitCodes } from './errors.ts';
import { writeBytes } from './output.ts';
import { pumpStdin, type StdinMode } from './stdin.ts';

export type Followed = {
  context: Context;
  client: ForkdClient;
  sandboxId: string;
  events: AsyncIterable<CommandEvent>;
  stdin: StdinMode;
  /** Where its id is known before the stream says it. */
  commandId?: string;
  onStarted?: (commandId: string) => void;
  /** Where its output goes, if not to our own. */
  write?: (stream: 'stdout' | 'stderr', bytes: Uint8Array) => Promise<void>;
};

export type Ending = { exitCode: number; timedOut: boolean };

/** Passes a command's output on, byte for byte as it comes, and our stdin to it. @returns how it ended. */
export async function followCommand(followed: Followed): Promise<Ending> {
  const { streams } = followed.context.out;
  const write = followed.write ?? ((stream, bytes) => writeBytes(streams[stream], bytes));
  const stdinAbort = new AbortController();
  let pump: Promise<void> | undefined;
  const begin = (commandId: string) => {
    followed.onStarted?.(commandId);
    pump ??= pumpStdin({ ...followed, commandId, stream: streams.stdin, signal: stdinAbort.signal });
    // Waited for below; until then a failure of it must not count as one that nobody sees.
    pump.catch(() => {});
  };
  if (followed.commandId !== undefined) begin(followed.commandId);
  try {
    for await (const event of followed.events) {
      if (event.type === 'started') begin(event.id);
      else if (event.type === 'stdout' || event.type === 'stderr') {
        await write(event.type, Buffer.from(event.data, 'base64'));
      } else if (event.type === 'gap') reportGap(followed.context, event.from, event.to);
      else if (event.type === 'error') throw errorFromEvent(event);
      else if (event.type === 'exit') return endingOf(event);
    }
  } finally {
    stdinAbort.abort();
    await pump;
  }
  throw new ForkdError('stream_cut', 'the output ended before the command did', {
    hint: 'it may still run: `forkd attach` takes it up again',
  });
}

export function endingOf(event: Extract<CommandEvent, { type: 'exit' }>): Ending {
  if (event.timed_out) return { exitCode: exitCodes.commandTimeout, timedOut: true };
  return { exitCode: event.exit_code ?? exitCodes.failure, timedOut: false };
}

function reportGap(context: Context, from: number, to: number): void {
  context.out.warn(`${to - from} bytes of output are lost here: the guest keeps only the last of them`);
}
