import type { BranchMode, BranchUntil, Safety, SnapshotInfo } from '@forkd/api';
import { Sandbox } from '@forkd/sdk';
import type { Context } from '../context.ts';
import { formatBytes, formatMs } from '../output/text.ts';
import { resolveSandbox } from '../parse/resolve.ts';
import { UsageError } from './errors.ts';

export interface BranchFlags {
  safety?: Safety;
  live?: boolean;
  diff?: boolean;
  full?: boolean;
  wait: boolean;
  until?: BranchUntil;
  audit?: boolean;
}

/** Implements `snapshot --from-sandbox`: branches, and prints the tag, or with --json the snapshot. */
export async function branchSandbox(
  context: Context,
  sandboxText: string,
  tag: string | undefined,
  flags: BranchFlags,
): Promise<void> {
  const { wait, audit, safety, until = wait ? 'durable' : 'resumed' } = flags;
  const chosen = chosenMode(flags);
  if (!wait && until !== 'resumed') {
    throw new UsageError(`snapshot: --no-wait and --until ${until} exclude each other.`);
  }
  if (!wait && chosen !== undefined && chosen !== 'live') {
    throw new UsageError(`snapshot: --no-wait needs a live branch, not --${chosen}.`);
  }
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, sandboxText, context);
  let taken: BranchMode = chosen ?? 'live';
  const { info } = await Sandbox.branch(sandboxId, {
    client,
    signal: context.signal,
    tag,
    // Only a live branch can return early, so --no-wait allows no other mode.
    mode: wait ? chosen : 'live',
    until,
    audit,
    safety,
    onFallback: ({ message }) => {
      taken = 'diff';
      context.out.note(`${message} The source is paused while its changes are copied.`);
    },
  });
  if (context.out.isJson) {
    context.out.json(info);
    return;
  }
  context.out.line(info.tag);
  context.out.note(describeBranch(info, taken));
}

function chosenMode(flags: BranchFlags): BranchMode | undefined {
  if (flags.live) return 'live';
  if (flags.diff) return 'diff';
  return flags.full ? 'full' : undefined;
}

function describeBranch(info: SnapshotInfo, mode: BranchMode): string {
  const parts = [`${mode} branch of ${info.branched_from ?? 'the sandbox'} is ${info.status}`];
  if (info.pause_us !== undefined) parts.push(`paused ${formatMs(info.pause_us / 1000)}`);
  if (info.captured_bytes !== undefined) parts.push(`captured ${formatBytes(info.captured_bytes)}`);
  if (info.audited_pages !== undefined) {
    parts.push(`audited ${info.audited_pages} pages, ${info.differing_pages ?? 0} differ`);
  }
  if (info.audited_blocks !== undefined) {
    parts.push(`audited ${info.audited_blocks} blocks of the disk, ${info.differing_blocks ?? 0} differ`);
  }
  if (info.warning !== undefined) parts.push(info.warning);
  return parts.join(', ');
}
