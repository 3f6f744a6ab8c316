import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/** Delay between two attempts to connect. A socket that does not exist yet cannot be awaited. */
const RETRY_MS = 1;

/** A connection to `path`, once somebody listens there. Rejects with the signal's reason when it aborts. */
export async function dial(path: string, signal: AbortSignal): Promise<Socket> {
  for (;;) {
    signal.throwIfAborted();
    const socket = await attempt(path);
    if (socket) return socket;
    await delay(RETRY_MS);
  }
}

function attempt(path: string): Promise<Socket | null> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      // A connection that breaks ends the lines, which is where it is noticed.
      socket.on('error', () => undefined);
      resolve(socket);
    });
    socket.once('error', () => resolve(null));
  });
}
