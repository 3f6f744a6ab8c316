import type { CreateSandboxesRequest } from '@forkd/api';
import { ForkdError, Sandbox, type ForkdClient } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { reportOf } from './errors.ts';
import { withProgress } from './progress.ts';

const KILL_TIMEOUT_MS = 60_000;

/** Starts one sandbox, uses it, and ends it however that went; with `keeps` it stays. */
export async function withThrowaway<Result>(
  context: Context,
  client: ForkdClient,
  request: CreateSandboxesRequest & { keeps?: boolean },
  use: (sandboxId: string) => Promise<Result>,
): Promise<Result> {
  const { keeps = false, ...fork } = request;
  context.signal.throwIfAborted();
  // Ctrl-C does not reach this request: its child would start all the same, and nobody would know which it is.
  const work = client.createSandboxes({ ...fork, n: 1 });
  const [sandbox] = await withProgress(context.out, 'fork', `a child of ${fork.snapshot_tag}`, work);
  if (sandbox === undefined)
    throw new ForkdError('bad_response', `fork of "${fork.snapshot_tag}": the answer is empty`);
  for (const warning of sandbox.warnings ?? []) context.out.warn(warning);
  try {
    context.signal.throwIfAborted();
    return await use(sandbox.id);
  } finally {
    if (keeps) context.out.note(`${sandbox.id} is kept`);
    else await end(context, client, sandbox.id);
  }
}

/** What was done in the sandbox is what counts: that it could not be ended is told beside it. */
async function end(context: Context, client: ForkdClient, sandboxId: string): Promise<void> {
  try {
    await Sandbox.kill(sandboxId, { client, signal: AbortSignal.timeout(KILL_TIMEOUT_MS) });
  } catch (error) {
    context.out.warn(`${sandboxId} could not be ended: ${reportOf(error).error}`);
  }
}
