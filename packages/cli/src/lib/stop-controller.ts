import { isForkdError, sleep, type ForkdClient } from '@forkd/sdk';
import { CommandError } from './errors.ts';

const STOP_TIMEOUT_MS = 30_000;
const POLL_MS = 50;

/** Asks the controller to end, and waits until its process has. */
export async function stopController(client: ForkdClient, killsSandboxes: boolean, signal: AbortSignal): Promise<void> {
  const { pid } = await client.shutdown(killsSandboxes ? { sandboxes: 'kill' } : {}, { signal });
  const deadlineMs = performance.now() + STOP_TIMEOUT_MS;
  while (performance.now() < deadlineMs) {
    // Its socket goes first; what it still has to put away, it does after that.
    if (!isRunning(pid) && !(await answers(client, signal))) return;
    await sleep(POLL_MS, signal);
  }
  const seconds = STOP_TIMEOUT_MS / 1000;
  throw new CommandError(
    'controller_failed',
    `the controller (pid ${pid}) still runs ${seconds} s after it was told to end`,
  );
}

/** The shutdown is had over a unix socket only, so its process is one of this host. */
function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return !(error instanceof Error && 'code' in error && error.code === 'ESRCH');
  }
}

async function answers(client: ForkdClient, signal: AbortSignal): Promise<boolean> {
  try {
    return (await client.health({ signal, timeoutMs: STOP_TIMEOUT_MS })).ok;
  } catch (error) {
    if (isForkdError(error, 'shutting_down')) return true;
    if (isForkdError(error, 'connection_failed') || isForkdError(error, 'stream_cut')) return false;
    throw error;
  }
}
