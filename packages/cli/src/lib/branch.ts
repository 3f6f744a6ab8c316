import type { BranchMode, BranchRequest, BranchUntil, SnapshotInfo } from '@forkd/api';
import { isForkdError, type ForkdClient } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { UsageError } from './errors.ts';
import { resolveSandbox } from './resolve.ts';
import { formatBytes, formatMs } from './text.ts';

export type BranchFlags = { live?: boolean; diff?: boolean; full?: boolean; wait: boolean; until?: BranchUntil };

/** `snapshot --from-sandbox`: branches, and prints the tag, or with --json the snapshot. */
export async function branchSandbox(
  context: Context,
  sandboxText: string,
  tag: string | undefined,
  flags: BranchFlags,
): Promise<void> {
  if (!flags.wait && flags.until !== undefined && flags.until !== 'resumed') {
    throw new UsageError(`snapshot: --no-wait and --until ${flags.until} exclude each other`);
  }
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, sandboxText, context);
  const mode = chosenMode(flags) ?? (await bestMode(context, client, flags));
  const request: BranchRequest = { mode, wait: flags.wait };
  if (tag !== undefined) request.tag = tag;
  if (flags.until !== undefined) request.until = flags.until;
  const info = await client.branch(sandboxId, request, { signal: context.signal });
  if (context.out.isJson) {
    context.out.json(info);
    return;
  }
  context.out.line(info.tag);
  context.out.note(describeBranch(info, mode));
}

function chosenMode(flags: BranchFlags): BranchMode | undefined {
  if (flags.live) return 'live';
  if (flags.diff) return 'diff';
  return flags.full ? 'full' : undefined;
}

/** Live where the host can do it. Who did not say which mode wants a branch, not an error. */
async function bestMode(context: Context, client: ForkdClient, flags: BranchFlags): Promise<BranchMode> {
  // An early reply is only had from a live branch: if that cannot be, the controller's refusal says why.
  if (!flags.wait) return 'live';
  const unavailable = await whyNotLive(client, context.signal);
  if (unavailable === null) return 'live';
  context.out.note(`no live branch here (${unavailable}): the source is paused while its changes are copied`);
  return 'diff';
}

async function whyNotLive(client: ForkdClient, signal: AbortSignal): Promise<string | null> {
  try {
    return (await client.host({ signal })).engine.live_unavailable;
  } catch (error) {
    // Another daemon of the same wire has no such route; it may still know live branches.
    if (isForkdError(error) && error.status === 404) return null;
    throw error;
  }
}

function describeBranch(info: SnapshotInfo, mode: BranchMode): string {
  const parts = [`${mode} branch of ${info.branched_from ?? 'the sandbox'} is ${info.status}`];
  if (info.pause_ms !== undefined) parts.push(`paused ${formatMs(info.pause_ms)}`);
  if (info.captured_bytes !== undefined) parts.push(`captured ${formatBytes(info.captured_bytes)}`);
  if (info.warning !== undefined) parts.push(info.warning);
  return parts.join(', ');
}
