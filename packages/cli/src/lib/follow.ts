import type { CommandHandle } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { writeBytes } from '../output/output.ts';
import { exitCodes } from './errors.ts';
import { pumpStdin, type StdinMode } from './stdin.ts';

export interface Followed {
  context: Context;
  handle: CommandHandle;
  stdin: StdinMode;
  /** The destination of the command's output. Default: our own stdout and stderr. */
  write?: (stream: 'stdout' | 'stderr', bytes: Uint8Array) => Promise<void>;
}

export interface Ending {
  exitCode: number;
  timedOut: boolean;
}

/** Passes a command's output on, byte for byte as it arrives, and our stdin to the command. Returns how the command ended. */
export async function followCommand({ context, handle, stdin, write }: Followed): Promise<Ending> {
  const { streams } = context.out;
  const pass = write ?? ((stream, bytes) => writeBytes(streams[stream], bytes));
  await withStdin(context, handle, stdin, async () => {
    for await (const chunk of handle) {
      if (chunk.type === 'gap') reportGap(context, chunk.from, chunk.to);
      else await pass(chunk.type, chunk.data);
    }
  });
  return endingOf(handle.exit);
}

/** Forwards our stdin to a command while `work` reads its output. */
export async function withStdin<Result>(
  context: Context,
  handle: CommandHandle,
  stdin: StdinMode,
  work: () => Promise<Result>,
): Promise<Result> {
  const abort = new AbortController();
  const pump = pumpStdin({ handle, stdin, stream: context.out.streams.stdin, signal: abort.signal });
  // The pump is awaited below, where its failure is reported. Until then the rejection must not count as unhandled.
  pump.catch(() => {});
  try {
    return await work();
  } finally {
    abort.abort();
    await pump;
  }
}

export function endingOf(exit: CommandHandle['exit']): Ending {
  if (exit?.timedOut) return { exitCode: exitCodes.commandTimeout, timedOut: true };
  return { exitCode: exit?.exitCode ?? exitCodes.failure, timedOut: false };
}

function reportGap(context: Context, from: number, to: number): void {
  context.out.warn(`${to - from} bytes of output are lost: the guest keeps only the most recent output.`);
}
