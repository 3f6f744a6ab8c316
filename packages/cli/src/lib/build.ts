import { readFile } from 'node:fs/promises';
import type { CreateSnapshotRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import { Snapshot, type BuildTimes } from '@forkd/sdk';
import type { OptionSpec } from '../command.ts';
import type { Context } from '../context.ts';
import { integer } from './parse.ts';
import { Progress } from './progress.ts';
import { formatMs } from './text.ts';

/** What the verbs that boot a template have in common. */
export type TemplateOptions = {
  kernel?: string;
  warm?: string;
  warmFile?: string;
  memMib?: number;
  vcpus?: number;
};

export const templateOptions: readonly OptionSpec[] = [
  { flags: '--warm <python>', summary: 'evaluate this in the interpreter that the children inherit' },
  { flags: '--warm-file <file>', summary: 'the same from a file', conflicts: ['warm'], completes: 'file' },
  {
    flags: '--mem-mib <mib>',
    summary: `memory of the guest (default: ${limits.memMibDefault})`,
    parse: integer('--mem-mib', limits.memMibMin, limits.memMibMax),
  },
  {
    flags: '--vcpus <n>',
    summary: `processors of the guest (default: ${limits.vcpusDefault})`,
    parse: integer('--vcpus', limits.vcpusMin, limits.vcpusMax),
  },
];

/** The part of the request that these options make. */
export async function templateFields(options: TemplateOptions): Promise<Partial<CreateSnapshotRequest>> {
  const fields: Partial<CreateSnapshotRequest> = {};
  const warm = options.warmFile === undefined ? options.warm : await readFile(options.warmFile, 'utf8');
  if (warm !== undefined) fields.warm = warm;
  if (options.memMib !== undefined) fields.mem_mib = options.memMib;
  if (options.vcpus !== undefined) fields.vcpus = options.vcpus;
  return fields;
}

/** Builds a template, and shows how far it is. */
export async function buildTemplate(
  context: Context,
  request: CreateSnapshotRequest,
): Promise<{ snapshot: Snapshot; times: BuildTimes }> {
  const client = await context.client();
  const progress = new Progress(context.out);
  try {
    return await Snapshot.create(request, {
      client,
      signal: context.signal,
      onProgress: (event) => progress.show(event),
    });
  } finally {
    progress.end();
  }
}

/** The result of such a verb: the tag, or with --json the snapshot and what the steps took. */
export function printTemplate(context: Context, built: { snapshot: Snapshot; times: BuildTimes }): void {
  const { snapshot, times } = built;
  if (context.out.isJson) {
    context.out.json({ ...snapshot.info, ...times });
    return;
  }
  context.out.line(snapshot.tag);
  const { build_ms: build, boot_ms: boot, warm_ms: warm, snapshot_ms: saved } = times;
  context.out.note(
    `image ${formatMs(build)}, boot ${formatMs(boot)}, warm-up ${formatMs(warm)}, snapshot ${formatMs(saved)}`,
  );
}
