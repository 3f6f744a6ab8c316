import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { EngineError } from '../errors.ts';
import { onLine } from '../lines.ts';

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
  try {
    await running(socket);
  } finally {
    signal.removeEventListener('abort', abort);
    socket.destroy();
  }
}

function running(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => reject(new EngineError('vm_start_failed', why));
    socket.once('close', () => fail('The VMM closed its monitor before the VM ran.'));
    onLine(socket, (line) => {
      const message = JSON.parse(line) as Message;
      // A VM that is still loading answers "inmigrate", and says RESUME when it has started.
      if (message.event === 'RESUME' || message.return?.status === 'running') resolve();
      if (message.error) fail(`The VMM refused: ${message.error.desc ?? 'no reason'}.`);
    });
    socket.write('{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n');
  });
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
