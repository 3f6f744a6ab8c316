import { CodedError } from '@forkd/api/constants';
import { isForkdError, Sandbox, sleep, Snapshot, type ForkdClient } from '@forkd/sdk';
import { stopController } from '../../lib/stop-controller.ts';
import { allTags } from './run.ts';

const CLEANUP_TIMEOUT_MS = 120_000;
const RETRY_MS = 100;

export interface CleanupPlan {
  client: ForkdClient;
  /** Sandboxes that existed before this run, and stay. */
  sandboxesBefore: ReadonlySet<string>;
  keepsSnapshots: boolean;
  startedController: boolean;
}

/**
 * Ends everything that the run has started, whichever step failed. The clean-up has its own timeout, because the signal of
 * the run may already be aborted.
 */
export async function cleanUp(plan: CleanupPlan): Promise<void> {
  const { client } = plan;
  const signal = AbortSignal.timeout(CLEANUP_TIMEOUT_MS);
  // Ask the controller, not our own list: an aborted fork may have started children anyway.
  await killOurs(client, allTags, plan.sandboxesBefore, signal);
  const present = (await client.listSnapshots({ signal })).map((snapshot) => snapshot.tag);
  const ours = allTags.filter((tag) => present.includes(tag));
  if (plan.keepsSnapshots) {
    for (const tag of ours) await (await Snapshot.get(tag, { client, signal })).waitUntil('durable', { signal });
  } else {
    await removeTags(client, ours, signal);
  }
  const left = await client.listSandboxes({ signal });
  const leftOfOurs = left.filter(
    (sandbox) => allTags.includes(sandbox.snapshot_tag) && !plan.sandboxesBefore.has(sandbox.id),
  );
  if (leftOfOurs.length > 0) {
    throw new CodedError('guest_unreachable', `Still running: ${leftOfOurs.map((sandbox) => sandbox.id).join(', ')}`);
  }
  // Sandboxes of others keep running without a controller, as they did before this one was started.
  if (plan.startedController) await stopController(client, left.length === 0, signal);
}

async function killOurs(
  client: ForkdClient,
  tags: readonly string[],
  before: ReadonlySet<string>,
  signal: AbortSignal,
): Promise<void> {
  const sandboxes = await client.listSandboxes({ signal });
  const ours = sandboxes.filter((sandbox) => tags.includes(sandbox.snapshot_tag) && !before.has(sandbox.id));
  await Promise.all(ours.map((sandbox) => Sandbox.kill(sandbox.id, { client, signal })));
}

/** Removes snapshots in this order. Waits for a snapshot that is still being written to disk. */
export async function removeTags(client: ForkdClient, tags: readonly string[], signal: AbortSignal): Promise<void> {
  for (const tag of tags) {
    for (;;) {
      try {
        await Snapshot.delete(tag, { client, signal });
        break;
      } catch (error) {
        if (!isForkdError(error, 'snapshot_in_flight') || signal.aborted) throw error;
      }
      await sleep(RETRY_MS, signal);
    }
  }
}
