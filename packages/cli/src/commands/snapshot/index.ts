import path from 'node:path';
import type { CreateSnapshotRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
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
import { seconds, tag } from '../../lib/parse.ts';
import { exportCommand } from './export.ts';
import { importCommand } from './import.ts';

type Options = TemplateOptions &
  BranchFlags & {
    tag?: string;
    rootfs?: string;
    rw?: boolean;
    tap?: string;
    bootWaitSecs?: number;
    fromSandbox?: string;
  };

export const snapshot = defineCommand<Options>({
  name: 'snapshot',
  summary: 'branch a running sandbox, or boot a root file system and snapshot it',
  description:
    'With --from-sandbox the source runs on, and its connections stay. Without a mode the branch is live where this host\ncan do that, else diff. `forkd from-image` makes a template from an image.',
  args: [],
  options: [
    { flags: '--tag <tag>', summary: 'name of the snapshot; a branch without one is given one', parse: tag },
    { flags: '--from-sandbox <sandbox>', summary: 'branch this one', completes: 'sandbox' },
    { flags: '--live', summary: 'copy while the source runs: the shortest pause', conflicts: ['diff', 'full'] },
    { flags: '--diff', summary: 'copy what changed while the source is paused', conflicts: ['live', 'full'] },
    { flags: '--full', summary: 'copy all of its memory while it is paused', conflicts: ['live', 'diff'] },
    { flags: '--no-wait', summary: 'return as soon as the source runs again (live only)' },
    {
      flags: '--until <when>',
      summary: 'return when the source has resumed, the branch is ready to fork, or is durable on disk',
      choices: ['resumed', 'ready', 'durable'],
    },
    { flags: '--kernel <file>', summary: 'kernel to boot', completes: 'file' },
    { flags: '--rootfs <file>', summary: 'root file system to boot', completes: 'file' },
    { flags: '--rw', summary: 'mount it writable' },
    { flags: '--tap <device>', summary: 'tap device of the template' },
    {
      flags: '--boot-wait-secs <secs>',
      summary: `how long the boot may take (default: ${limits.bootWaitSecsDefault})`,
      parse: seconds('--boot-wait-secs', limits.bootWaitSecsMax),
    },
    ...templateOptions,
  ],
  examples: [
    { line: 'forkd snapshot --from-sandbox sb-1f --tag before-upgrade', summary: 'branch a running sandbox' },
    { line: 'forkd snapshot --from-sandbox sb-1f --no-wait', summary: 'and do not wait for the disk' },
    { line: 'forkd snapshot --tag base --kernel vmlinuz --rootfs root.erofs', summary: 'boot and snapshot' },
  ],
  subcommands: [exportCommand, importCommand],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  if (options.fromSandbox !== undefined) {
    if (options.rootfs !== undefined || options.kernel !== undefined) {
      throw new UsageError('snapshot: --from-sandbox excludes --kernel and --rootfs');
    }
    await branchSandbox(context, options.fromSandbox, options.tag, options);
    return;
  }
  await bootSnapshot(context, options);
}

async function bootSnapshot(context: Context, options: Options): Promise<void> {
  if (options.tag === undefined || options.rootfs === undefined) {
    throw new UsageError('snapshot: give --tag and --rootfs to boot, or --from-sandbox to branch');
  }
  if (options.live || options.diff || options.full || !options.wait || options.until !== undefined) {
    throw new UsageError('snapshot: --live, --diff, --full, --no-wait and --until go with --from-sandbox');
  }
  const request: CreateSnapshotRequest = {
    tag: options.tag,
    rootfs: path.resolve(options.rootfs),
    ...(await templateFields(options)),
  };
  if (options.kernel !== undefined) request.kernel = path.resolve(options.kernel);
  if (options.rw) request.rw = true;
  if (options.tap !== undefined) request.tap = options.tap;
  if (options.bootWaitSecs !== undefined) request.boot_wait_secs = options.bootWaitSecs;
  printTemplate(context, await buildTemplate(context, request));
}
