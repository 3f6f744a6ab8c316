import type { CreateSandboxesRequest } from '@forkd/api';
import { ForkdError, Sandbox, type ForkdClient } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { withProgress } from '../output/progress.ts';
import { reportOf } from './errors.ts';

const KILL_TIMEOUT_MS = 60_000;
/** The time to live of the sandbox, which this process renews. If this process is killed, the sandbox ends after it. */
export const LEASE_SECS = 90;
const RENEWALS_PER_LEASE = 3;

/**
 * Starts one sandbox, uses it, and ends it even if the use fails or this process is killed. If `keeps` is set, the sandbox
 * stays.
 */
export async function withThrowaway<Result>(
  context: Context,
  client: ForkdClient,
  request: CreateSandboxesRequest & { keeps?: boolean },
  use: (sandboxId: string) => Promise<Result>,
): Promise<Result> {
  const { keeps = false, ...fork } = request;
  context.signal.throwIfAborted();
  // Ctrl-C does not cancel this request: the child would start anyway, and its id would be unknown.
  const work = client.createSandboxes({ ...fork, n: 1, ...(!keeps && { ttl_secs: LEASE_SECS }) });
  const [sandbox] = await withProgress(context.out, 'fork', `a child of ${fork.snapshot_tag}`, work);
  if (sandbox === undefined)
    throw new ForkdError('bad_response', `Fork of "${fork.snapshot_tag}": the reply is empty.`);
  for (const warning of sandbox.warnings ?? []) context.out.warn(warning);
  const stopRenewing = keeps ? undefined : renewLease(client, sandbox.id);
  try {
    context.signal.throwIfAborted();
    return await use(sandbox.id);
  } finally {
    stopRenewing?.();
    if (keeps) context.out.note(`Sandbox ${sandbox.id} is kept.`);
    else await endThrowaway(context, client, sandbox.id);
  }
}

/** Renews the time to live of the sandbox until the returned function is called. */
function renewLease(client: ForkdClient, sandboxId: string): () => void {
  const periodMs = (LEASE_SECS * 1000) / RENEWALS_PER_LEASE;
  const renew = () => client.updateSandbox(sandboxId, { ttl_secs: LEASE_SECS }, { timeoutMs: periodMs });
  // Ignore failures: the next renewal may succeed, and a sandbox that has ended fails the work itself.
  const timer = setInterval(() => {
    renew().catch(() => {});
  }, periodMs);
  return () => clearInterval(timer);
}

/** Kills a sandbox, even if this process is being ended. Only warns if that fails, so that the result of the work is kept. */
export async function endThrowaway(context: Context, client: ForkdClient, sandboxId: string): Promise<void> {
  try {
    await Sandbox.kill(sandboxId, { client, signal: AbortSignal.timeout(KILL_TIMEOUT_MS) });
  } catch (error) {
    context.out.warn(`Sandbox ${sandboxId} could not be killed: ${reportOf(error).error}`);
  }
}
