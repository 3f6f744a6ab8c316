import type { Socket } from 'node:net';
import { dial } from '../dial.ts';
import { EngineError } from '../errors.ts';
import { onLine } from '../lines.ts';

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
