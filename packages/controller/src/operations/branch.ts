import { ApiError, branchPlan, defaultBranchTag, type BranchRequest, type Safety, type SnapshotInfo } from '@forkd/api';
import { unixNow } from '../clock.ts';
import { assertCan } from '../runtime/capabilities.ts';
import { assertTag } from '../state/catalog.ts';
import type { DraftFacts } from '../state/draft.ts';
import type { Sandbox } from '../state/sandbox.ts';
import { vmOf } from './ask-vm.ts';
import { BranchInProgress } from './branch-in-progress.ts';
import type { Host } from './host.ts';
import { assertCanStandStill } from './stand-still.ts';

/**
 * Makes a snapshot of a running sandbox: one at a time per sandbox, and `host.branches.max` at a time in total. Resolves at
 * the stage that was asked for. The branch continues after the caller has left.
 */
export async function branch(
  host: Host,
  id: string,
  request: BranchRequest,
  requestKey: string | null = null,
): Promise<SnapshotInfo> {
  const { registry, branches, catalog, replies } = host;
  const plan = branchPlan(request);
  await branches.settled(registry.find(id).id);
  let sandbox = registry.find(id);
  const tag = request.tag ?? defaultBranchTag(sandbox.id);
  assertTag(tag);
  assertParent(sandbox, request.parent_tag ?? null);
  await host.vmm.use(sandbox.ended.signal);
  // The sandbox may have ended while we waited for the pager.
  sandbox = registry.find(sandbox.id);
  const vm = vmOf(sandbox);
  const asked = `Branch of sandbox ${sandbox.id}: mode ${plan.mode} cannot be had`;
  assertCan(vm, plan.mode, asked, "Mode diff works. 'forkd doctor' says what is missing.");
  if (plan.safety === 'strict') assertCanStandStill(sandbox);
  assertFree(host, sandbox, tag);
  const facts = factsOf(tag, sandbox, plan.safety, request.parent_tag != null);
  sandbox.branching = tag;
  const draft = await catalog
    .claim(facts, () => replies.noteSnapshot(requestKey, tag))
    .catch((error: unknown) => {
      sandbox.branching = null;
      throw error;
    });
  await new BranchInProgress(host, sandbox, draft, plan).start(vm);
  return catalog.describe(draft);
}

function assertFree({ registry, branches }: Host, { id, branching }: Sandbox, tag: string): void {
  if (branching !== null) {
    const sentence = `Branch '${tag}': a branch '${branching}' of sandbox ${id} is under way.`;
    throw new ApiError('branch_in_flight', sentence);
  }
  const inFlight = registry.all().filter((sandbox) => sandbox.branching !== null).length;
  if (inFlight >= branches.max) {
    const sentence = `Branch '${tag}' of sandbox ${id}: ${inFlight} branches are under way, the cap is ${branches.max}.`;
    throw new ApiError('branch_cap', sentence);
  }
}

function factsOf(tag: string, { id, record }: Sandbox, safety: Safety, keepsParent: boolean): DraftFacts {
  if (record.vm === null) throw new Error(`sandbox ${id} runs without a VM`);
  return {
    tag,
    createdAtUnix: unixNow(),
    machine: record.vm.machine,
    image: record.image,
    source: record.source,
    python: record.python,
    refresh: record.refresh ?? null,
    safety,
    network: record.vm.networkKey === undefined ? null : { policy: record.network ?? {}, inherited: null },
    parent: { tag: record.snapshot_tag, digest: record.snapshot_digest },
    keepsParent,
    branchedFrom: id,
  };
}

/** Refuses a request that names another parent than the snapshot that the sandbox was started from. */
function assertParent({ id, record }: Sandbox, parentTag: string | null): void {
  if (parentTag === null || parentTag === record.snapshot_tag) return;
  const sentence = `Branch of sandbox ${id}: its parent is '${record.snapshot_tag}', not '${parentTag}'.`;
  throw new ApiError('bad_request', sentence, { hint: 'Leave parent_tag out.' });
}
