import { connect, type Socket } from 'node:net';
import { createInterface, type Interface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { EngineError } from '../errors.ts';

/** Between two attempts to connect: a socket that does not exist yet cannot be waited for. */
const RETRY_MS = 1;

interface Message {
  return?: { status?: string };
  error?: { desc?: string };
  event?: string;
}

/** Resolves when the VM behind the monitor at `path` runs. Rejects when `signal` aborts. */
export async function waitUntilRunning(path: string, signal: AbortSignal): Promise<void> {
  const socket = await dial(path, signal);
  const abort = (): void => void socket.destroy();
  signal.addEventListener('abort', abort, { once: true });
  const lines = createInterface({ input: socket, crlfDelay: Infinity });
  try {
    await converse(socket, lines);
  } finally {
    signal.removeEventListener('abort', abort);
    lines.close();
    socket.destroy();
  }
}

async function converse(socket: Socket, lines: Interface): Promise<void> {
  socket.write('{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n');
  for await (const line of lines) {
    const message = JSON.parse(line) as Message;
    // A VM that is still loading answers "inmigrate", and says RESUME when it has started.
    if (message.event === 'RESUME' || message.return?.status === 'running') return;
    if (message.error)
      throw new EngineError('vm_start_failed', `The VMM refused: ${message.error.desc ?? 'no reason'}.`);
  }
  throw new EngineError('vm_start_failed', 'The VMM closed its monitor before the VM ran.');
}

async function dial(path: string, signal: AbortSignal): Promise<Socket> {
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
