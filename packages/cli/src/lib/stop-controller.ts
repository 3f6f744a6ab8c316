import { CodedError } from '@forkd/api/constants';
import { isForkdError, sleep, type ForkdClient } from '@forkd/sdk';

const STOP_TIMEOUT_MS = 30_000;
const POLL_MS = 50;

/** Asks the controller to exit, and waits until its process has exited. */
export async function stopController(client: ForkdClient, killsSandboxes: boolean, signal: AbortSignal): Promise<void> {
  const { pid } = await client.shutdown(killsSandboxes ? { sandboxes: 'kill' } : {}, { signal });
  const deadlineMs = performance.now() + STOP_TIMEOUT_MS;
  while (performance.now() < deadlineMs) {
    // The controller closes its socket first and exits a moment later, after its clean-up.
    if (!isRunning(pid) && !(await answers(client, signal))) return;
    await sleep(POLL_MS, signal);
  }
  const seconds = STOP_TIMEOUT_MS / 1000;
  throw new CodedError(
    'controller_failed',
    `The controller (pid ${pid}) still runs ${seconds} s after it was told to end.`,
  );
}

/** A shutdown is possible only over a unix socket, so the process is on this host. */
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
