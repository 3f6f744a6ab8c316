import type { BranchMode, BranchRequest, BranchUntil, SnapshotInfo } from '@forkd/api';
import { type ForkdError, isForkdError } from '@forkd/sdk';
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
  const request: BranchRequest = { wait: flags.wait };
  if (tag !== undefined) request.tag = tag;
  if (flags.until !== undefined) request.until = flags.until;
  let mode = chosenMode(flags) ?? 'live';
  const take = () => client.branch(sandboxId, { ...request, mode }, { signal: context.signal });
  const info = await take().catch((error: unknown) => {
    if (!mayBeDiff(flags, error)) throw error;
    context.out.note(`${error.message} The source is paused while its changes are copied.`);
    mode = 'diff';
    return take();
  });
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

/** Who did not say which mode wants a branch, not an error. But only a live one is answered early. */
function mayBeDiff(flags: BranchFlags, error: unknown): error is ForkdError {
  return chosenMode(flags) === undefined && flags.wait && isForkdError(error) && error.code === 'unsupported';
}

function describeBranch(info: SnapshotInfo, mode: BranchMode): string {
  const parts = [`${mode} branch of ${info.branched_from ?? 'the sandbox'} is ${info.status}`];
  if (info.pause_ms !== undefined) parts.push(`paused ${formatMs(info.pause_ms)}`);
  if (info.captured_bytes !== undefined) parts.push(`captured ${formatBytes(info.captured_bytes)}`);
  if (info.warning !== undefined) parts.push(info.warning);
  return parts.join(', ');
}
