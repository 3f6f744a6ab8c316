import { readFile } from 'node:fs/promises';
import type { CreateSnapshotRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import { Snapshot, type BuildTimes } from '@forkd/sdk';
import type { OptionSpec } from '../command.ts';
import type { Context } from '../context.ts';
import { Progress } from '../output/progress.ts';
import { formatMs } from '../output/text.ts';
import {
  networkOf,
  networkOptions,
  type NetworkOptions,
  warmNetworkOf,
  warmNetworkOptions,
  type WarmNetworkOptions,
} from '../parse/network-options.ts';
import { integer, seconds } from '../parse/parse.ts';

/** Options that all verbs that boot a template share. */
export interface TemplateOptions extends NetworkOptions, WarmNetworkOptions {
  kernel?: string;
  warm?: string;
  warmFile?: string;
  memMib?: number;
  memSizeMib?: number;
  bootWaitSecs?: number;
  tap?: string;
  vcpus?: number;
  diskGib?: number;
  cpuModel?: (typeof limits.cpuModels)[number];
}

export const templateOptions: readonly OptionSpec[] = [
  { flags: '--warm <python>', summary: 'Python to run in the interpreter that children inherit' },
  { flags: '--warm-file <file>', summary: 'the same, from a file', conflicts: ['warm'], completes: 'file' },
  {
    flags: '--mem-mib <mib>',
    summary: `memory of the guest (default: ${limits.memMibDefault})`,
    parse: integer('--mem-mib', limits.memMibMin, limits.memMibMax),
  },
  {
    flags: '--mem-size-mib <mib>',
    summary: 'the same as --mem-mib',
    parse: integer('--mem-size-mib', limits.memMibMin, limits.memMibMax),
    conflicts: ['memMib'],
    hidden: true,
  },
  {
    flags: '--boot-wait-secs <secs>',
    summary: `time limit of the boot (default: ${limits.bootWaitSecsDefault})`,
    parse: seconds('--boot-wait-secs', limits.bootWaitSecsMax),
  },
  ...networkOptions,
  ...warmNetworkOptions,
  { flags: '--tap <device>', summary: 'tap device for the template' },
  {
    flags: '--vcpus <n>',
    summary: `processors of the guest (default: ${limits.vcpusDefault})`,
    parse: integer('--vcpus', limits.vcpusMin, limits.vcpusMax),
  },
  {
    flags: '--disk-gib <gib>',
    summary: 'a disk of this size for what the guest writes (default: none; it writes to its memory)',
    parse: integer('--disk-gib', limits.diskGibMin, limits.diskGibMax),
  },
  {
    flags: '--cpu-model <model>',
    summary: "the guest's processor under KVM; x86-64-v2 for snapshots used on other hosts (default: host)",
    choices: limits.cpuModels,
  },
];

/** Returns the fields of the request that these options set. */
export async function templateFields(options: TemplateOptions): Promise<Partial<CreateSnapshotRequest>> {
  const fields: Partial<CreateSnapshotRequest> = {};
  const warm = options.warmFile === undefined ? options.warm : await readFile(options.warmFile, 'utf8');
  if (warm !== undefined) fields.warm = warm;
  const memMib = options.memMib ?? options.memSizeMib;
  if (memMib !== undefined) fields.mem_mib = memMib;
  if (options.bootWaitSecs !== undefined) fields.boot_wait_secs = options.bootWaitSecs;
  if (options.tap !== undefined) fields.tap = options.tap;
  const network = networkOf(options);
  if (network !== undefined) fields.network = network;
  const warmNetwork = warmNetworkOf(options);
  if (warmNetwork !== undefined) fields.warm_network = warmNetwork;
  if (options.vcpus !== undefined) fields.vcpus = options.vcpus;
  if (options.diskGib !== undefined) fields.disk_gib = options.diskGib;
  if (options.cpuModel !== undefined) fields.cpu_model = options.cpuModel;
  return fields;
}

/** Builds a template and shows its progress. */
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

/** Prints the new template: its tag, or with --json the snapshot and the times of the steps. */
export function printTemplate(context: Context, built: { snapshot: Snapshot; times: BuildTimes }): void {
  const { snapshot, times } = built;
  if (context.out.isJson) {
    context.out.json({ ...snapshot.info, ...times });
    return;
  }
  context.out.line(snapshot.tag);
  if (snapshot.info.warning !== undefined) context.out.note(`warning: ${snapshot.info.warning}`);
  const { build_ms: build, boot_ms: boot, warm_ms: warm, snapshot_ms: saved } = times;
  context.out.note(
    `image ${formatMs(build)}, boot ${formatMs(boot)}, warm-up ${formatMs(warm)}, snapshot ${formatMs(saved)}`,
  );
}
