import { isForkdError, type ForkdClient } from '@forkd/sdk';

/**
 * `all`: forwarded, and closed where it ends. `offered`: the same, but an empty one, such as /dev/null, closes nothing,
 * for a command that was not started by us. `none`: left alone.
 */
export type StdinMode = 'all' | 'offered' | 'none';

type Pump = {
  client: ForkdClient;
  sandboxId: string;
  commandId: string;
  stdin: StdinMode;
  stream: NodeJS.ReadStream;
  signal: AbortSignal;
};

/** Forwards our stdin to a command, a request a chunk and one at a time, so that the order stays, until `signal`. */
export async function pumpStdin(pump: Pump): Promise<void> {
  if (pump.stdin === 'none') return;
  const { stream, signal } = pump;
  // Ends the loop below, and lets the process end while a terminal is still open.
  const stop = () => stream.destroy();
  signal.addEventListener('abort', stop, { once: true });
  try {
    let bytes = 0;
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      await pump.client.writeCommandStdin(pump.sandboxId, pump.commandId, chunk, {}, { signal });
    }
    const closes = pump.stdin === 'all' || bytes > 0 || stream.isTTY;
    if (closes && !signal.aborted) {
      await pump.client.writeCommandStdin(
        pump.sandboxId,
        pump.commandId,
        new Uint8Array(),
        { close: true },
        { signal },
      );
    }
  } catch (error) {
    // A command may end, or close its stdin, before ours is at its end: that is its right.
    const isOver = ['command_ended', 'not_found_command', 'bad_request'].some((code) => isForkdError(error, code));
    if (!isOver && !signal.aborted) throw error;
  } finally {
    signal.removeEventListener('abort', stop);
    stream.destroy();
  }
}
