import { resolve } from 'node:path';
import type { CreateSnapshotRequest } from '@forkd/api';
import { defineCommand, type Call } from '../../command.ts';
import type { Context } from '../../context.ts';
import { branchSandbox, type BranchFlags } from '../../lib/branch.ts';
import {
  buildTemplate,
  printTemplate,
  templateFields,
  templateOptions,
  type TemplateOptions,
} from '../../lib/build.ts';
import { UsageError } from '../../lib/errors.ts';
import { safetyOption } from '../../parse/fork-options.ts';
import { accepted, replaced } from '../../parse/older-options.ts';
import { tag } from '../../parse/parse.ts';
import { exportCommand } from './export.ts';
import { importCommand } from './import.ts';

type Options = TemplateOptions &
  BranchFlags & {
    tag?: string;
    rootfs?: string;
    rw?: boolean;
    fromSandbox?: string;
  };

export const snapshot = defineCommand<Options>({
  name: 'snapshot',
  summary: 'branch a running sandbox, or boot a root file system and take a snapshot',
  description:
    'With --from-sandbox the source keeps running and keeps its connections. Without a mode the branch is live; on a host\nwithout live branches it is diff. `forkd from-image` makes a template from an image.',
  args: [],
  options: [
    { flags: '--tag <tag>', summary: 'name of the snapshot (default for a branch: a new name)', parse: tag },
    { flags: '--from-sandbox <sandbox>', summary: 'sandbox to branch', completes: 'sandbox' },
    { flags: '--live', summary: 'copy while the source runs; the shortest pause', conflicts: ['diff', 'full'] },
    { flags: '--diff', summary: 'pause the source and copy what has changed', conflicts: ['live', 'full'] },
    { flags: '--full', summary: 'pause the source and copy all of its memory', conflicts: ['live', 'diff'] },
    { flags: '--no-wait', summary: 'return as soon as the source runs again (live branches only)' },
    {
      flags: '--until <when>',
      summary: 'return when the source runs again, the branch can be forked, or the branch is on disk',
      choices: ['resumed', 'ready', 'durable'],
    },
    {
      flags: '--audit',
      summary:
        'compare every page and block of the branch with memory and disk, which the pause lasts long enough to read',
    },
    safetyOption('programs are stopped during the branch, and in a child until it has its own identity and clock'),
    { flags: '--kernel <file>', summary: 'kernel to boot', completes: 'file' },
    { flags: '--rootfs <file>', summary: 'root file system to boot', completes: 'file' },
    { flags: '--rw', summary: 'mount the root file system writable' },
    ...templateOptions,
    accepted('--keep-workdir', 'nothing is left behind'),
    replaced(
      '--volume <volume>',
      'A sandbox has no volumes.',
      'Put the files into the image, or copy them with `forkd cp`.',
    ),
  ],
  examples: [
    { line: 'forkd snapshot --from-sandbox sb-1f --tag before-upgrade', summary: 'branch a running sandbox' },
    { line: 'forkd snapshot --from-sandbox sb-1f --no-wait', summary: 'without waiting for the disk' },
    { line: 'forkd snapshot --from-sandbox sb-1f --audit', summary: 'with a check of every page and block' },
    { line: 'forkd snapshot --tag base --kernel vmlinuz --rootfs root.erofs', summary: 'boot, then take a snapshot' },
  ],
  subcommands: [exportCommand, importCommand],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  if (options.fromSandbox !== undefined) {
    if (options.rootfs !== undefined || options.kernel !== undefined) {
      throw new UsageError('snapshot: --from-sandbox excludes --kernel and --rootfs.');
    }
    await branchSandbox(context, options.fromSandbox, options.tag, options);
    return;
  }
  await bootSnapshot(context, options);
}

async function bootSnapshot(context: Context, options: Options): Promise<void> {
  if (options.tag === undefined || options.rootfs === undefined) {
    throw new UsageError('snapshot: Give --tag and --rootfs to boot, or --from-sandbox to branch.');
  }
  const ofBranches = [options.live, options.diff, options.full, options.audit, options.until, options.safety];
  if (!options.wait || ofBranches.some((option) => option !== undefined)) {
    const flags = '--live, --diff, --full, --audit, --no-wait, --until and --safety';
    throw new UsageError(`snapshot: ${flags} need --from-sandbox.`);
  }
  const request: CreateSnapshotRequest = {
    tag: options.tag,
    rootfs: resolve(options.rootfs),
    ...(await templateFields(options)),
  };
  if (options.kernel !== undefined) request.kernel = resolve(options.kernel);
  if (options.rw) request.rw = true;
  printTemplate(context, await buildTemplate(context, request));
}
