import { isForkdError, type CommandHandle } from '@forkd/sdk';

/**
 * `all`: forward our stdin and close the command's stdin at the end. `offered`: the same, but an empty stdin such as /dev/null
 * closes nothing; for a command that this process did not start. `none`: forward nothing.
 */
export type StdinMode = 'all' | 'offered' | 'none';

interface Pump {
  handle: CommandHandle;
  stdin: StdinMode;
  stream: NodeJS.ReadStream;
  signal: AbortSignal;
}

/** Forwards our stdin to a command until `signal` fires. Requests go one at a time, one per chunk, to keep the order. */
export async function pumpStdin({ handle, stdin, stream, signal }: Pump): Promise<void> {
  if (stdin === 'none') return;
  // Destroying the stream ends the loop below, and lets the process exit while a terminal is still open.
  const stop = () => stream.destroy();
  signal.addEventListener('abort', stop, { once: true });
  try {
    let bytes = 0;
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      await handle.sendStdin(chunk, { signal });
    }
    const closes = stdin === 'all' || bytes > 0 || stream.isTTY;
    if (closes && !signal.aborted) await handle.sendStdin(new Uint8Array(), { close: true, signal });
  } catch (error) {
    // The command may end, or close its stdin, before our stdin ends.
    const isOver = ['command_ended', 'not_found_command', 'bad_request'].some((code) => isForkdError(error, code));
    if (!isOver && !signal.aborted) throw error;
  } finally {
    signal.removeEventListener('abort', stop);
    stream.destroy();
  }
}
