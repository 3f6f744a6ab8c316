import type { Socket } from 'node:net';
import { dial } from '../dial.ts';
import { EngineError } from '../errors.ts';
import { onLine } from '../lines.ts';
import { whyLost } from './run-state.ts';

const LINE_CHARS_MAX = 64 * 1024;

interface Message {
  return?: { status?: string };
  error?: { desc?: string };
  event?: string;
}

/** Resolves when the VM behind the monitor at `path` runs. Rejects when `signal` aborts. */
export async function waitUntilRunning(path: string, signal: AbortSignal): Promise<void> {
  const socket = await dial(path, signal);
  const abort = () => socket.destroy();
  signal.addEventListener('abort', abort, { once: true });
  try {
    await running(socket);
  } finally {
    signal.removeEventListener('abort', abort);
    socket.destroy();
  }
}

/** A line that is no message is ignored. A VMM that sends nothing else reaches the deadline. */
function parse(line: string): Message {
  try {
    return (JSON.parse(line) as Message | null) ?? {};
  } catch {
    return {};
  }
}

function running(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => reject(new EngineError('vm_start_failed', why));
    socket.once('close', () => fail('The VMM closed its monitor before the VM ran.'));
    onLine(
      socket,
      (line) => {
        const message = parse(line);
        // A VM that is still loading answers "inmigrate", and says RESUME when it has started.
        if (message.event === 'RESUME' || message.return?.status === 'running') resolve();
        const lost = whyLost(message.return?.status);
        if (lost !== null) fail(`The VM stopped for good: ${lost.text}.`);
        if (message.error) fail(`The VMM refused: ${message.error.desc ?? 'no reason'}.`);
      },
      LINE_CHARS_MAX,
    );
    socket.write('{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n');
  });
}
