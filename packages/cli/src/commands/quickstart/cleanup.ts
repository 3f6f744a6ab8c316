import { isForkdError, Sandbox, sleep, Snapshot, type ForkdClient } from '@forkd/sdk';
import { CommandError } from '../../lib/errors.ts';
import { stopController } from '../../lib/stop-controller.ts';
import { branchTags, TEMPLATE_TAG } from './run.ts';

const CLEANUP_TIMEOUT_MS = 120_000;
const RETRY_MS = 100;

export type CleanupPlan = {
  client: ForkdClient;
  /** Sandboxes that were there before us, and stay. */
  sandboxesBefore: ReadonlySet<string>;
  keepsSnapshots: boolean;
  startedController: boolean;
};

/**
 * Leaves nothing of ours running, whatever step the run ended in. It has a time of its own: the run's signal may have
 * been aborted, which is why we are here.
 */
export async function cleanUp(plan: CleanupPlan): Promise<void> {
  const { client } = plan;
  const signal = AbortSignal.timeout(CLEANUP_TIMEOUT_MS);
  const tags = [...branchTags, TEMPLATE_TAG];
  // Asked of the controller and not of our own list: a fork that was aborted may have started children all the same.
  await killOurs(client, tags, plan.sandboxesBefore, signal);
  const present = (await client.listSnapshots({ signal })).map((snapshot) => snapshot.tag);
  const ours = tags.filter((tag) => present.includes(tag));
  if (plan.keepsSnapshots) {
    for (const tag of ours) await (await Snapshot.get(tag, { client, signal })).waitUntil('durable', { signal });
  } else {
    await removeTags(client, ours, signal);
  }
  const left = await client.listSandboxes({ signal });
  const leftOfOurs = left.filter(
    (sandbox) => tags.includes(sandbox.snapshot_tag) && !plan.sandboxesBefore.has(sandbox.id),
  );
  if (leftOfOurs.length > 0) {
    throw new CommandError('guest_unreachable', `still running: ${leftOfOurs.map((sandbox) => sandbox.id).join(', ')}`);
  }
  // Sandboxes of others run on by themselves, as they did before this controller was started.
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

/** Removes snapshots in this order. One that is still being written to disk is waited for. */
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
