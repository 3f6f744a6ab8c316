import type { SnapshotInfo, SnapshotInfoDetail } from '@forkd/api';
import { limits, CodedError } from '@forkd/api/constants';
import { Commands, type ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { followCommand } from '../lib/follow.ts';
import { withThrowaway } from '../lib/throwaway.ts';
import { layerBytes } from '../output/layers.ts';
import { writeBytes } from '../output/output.ts';
import { Progress } from '../output/progress.ts';
import { formatBytes, formatMs } from '../output/text.ts';
import { seconds, tag } from '../parse/parse.ts';
import { resolveSnapshot } from '../parse/resolve.ts';

interface Options {
  from: string;
  tag: string;
  exec: string;
  execTimeout: number;
  execTimeoutSecs?: number;
  keep?: boolean;
}

const EXEC_TIMEOUT_SECS = 600;
/** The amount of command output that an error quotes, if the output was not shown. */
const TAIL_BYTES = 2000;

export const snapshotDiff = defineCommand<Options>({
  name: 'snapshot-diff',
  summary: 'build a snapshot on another one: fork, run a command, keep the changes',
  description:
    '`sh -c` runs the command in a child of the snapshot. Its output goes to stderr. If it fails, no snapshot is made.',
  args: [],
  options: [
    {
      flags: '--from <tag>',
      summary: 'snapshot to build on: its tag, or the beginning of it',
      required: true,
      completes: 'snapshot',
    },
    { flags: '--tag <tag>', summary: 'name of the new snapshot', required: true, parse: tag },
    { flags: '--exec <command>', summary: 'command to run', required: true },
    {
      flags: '--exec-timeout <time>',
      summary: 'time limit of the command, such as 90, 15m or 2h',
      parse: seconds('--exec-timeout', limits.execTimeoutSecsMax),
      default: EXEC_TIMEOUT_SECS,
    },
    {
      flags: '--exec-timeout-secs <secs>',
      summary: 'the same as --exec-timeout',
      parse: seconds('--exec-timeout-secs', limits.execTimeoutSecsMax),
      hidden: true,
    },
    { flags: '--keep', summary: 'keep the child running' },
  ],
  examples: [
    { line: 'forkd snapshot-diff --from py --tag py-app --exec "cp -r /srv/app /opt"', summary: 'add a layer' },
    {
      line: 'forkd snapshot-diff --from py --tag big --exec ./build --exec-timeout 2h',
      summary: 'a step that takes long',
    },
  ],
  run,
});

async function run({ context, options: given }: Call<Options>): Promise<void> {
  const options = { ...given, execTimeout: given.execTimeoutSecs ?? given.execTimeout };
  const client = await context.client();
  const { signal } = context;
  const from = await resolveSnapshot(client, options.from, context);
  // Check before the command has run for minutes, not after.
  if ((await client.listSnapshots({ signal })).some((snapshot) => snapshot.tag === options.tag)) {
    throw new CodedError('tag_exists', `There is a snapshot "${options.tag}" already.`, {
      hint: 'Choose another --tag.',
    });
  }
  const progress = new Progress(context.out);
  const startMs = performance.now();
  const stage = (name: string, message: string) =>
    progress.show({ stage: name, message, elapsed_ms: performance.now() - startMs });
  try {
    stage('fork', `a child of ${from}`);
    const fork = { snapshot_tag: from, keeps: options.keep === true };
    const info = await withThrowaway(context, client, fork, async (sandboxId) => {
      stage('exec', `${options.exec} in ${sandboxId}`);
      progress.end();
      await runStep(context, client, sandboxId, options);
      stage('snapshot', options.tag);
      return client.branch(sandboxId, { tag: options.tag, mode: 'diff', parent_tag: from }, { signal });
    });
    progress.end();
    await report(context, client, from, info);
  } finally {
    progress.end();
  }
}

async function runStep(context: Context, client: ForkdClient, sandboxId: string, options: Options): Promise<void> {
  const { out, signal } = context;
  const isShown = !out.isQuiet && !out.isJson;
  let tail = Buffer.alloc(0);
  const start = { timeoutMs: options.execTimeout * 1000, onDisconnect: 'kill', signal } as const;
  const handle = await new Commands(client, sandboxId).follow(['sh', '-c', options.exec], start);
  const ending = await followCommand({
    context,
    handle,
    stdin: 'none',
    write: async (_, bytes) => {
      if (isShown) await writeBytes(out.streams.stderr, bytes);
      else tail = Buffer.concat([tail, bytes]).subarray(-TAIL_BYTES);
    },
  });
  if (ending.exitCode === 0) return;
  const said = tail.toString('utf8').trim();
  const how = ending.timedOut ? `did not end within ${options.execTimeout} s` : `ended with ${ending.exitCode}`;
  const what = `"${options.exec}" ${how}, and no snapshot was made`;
  throw new CodedError('exec_failed', said === '' ? `${what}.` : `${what}:\n${said}`, {
    hint: ending.timedOut
      ? 'Give it more time with --exec-timeout.'
      : `Run it by hand in a child: \`forkd run ${options.from} -- …\`.`,
  });
}

async function report(context: Context, client: ForkdClient, from: string, info: SnapshotInfo): Promise<void> {
  const { signal } = context;
  const [detail, parent] = await Promise.all([info.tag, from].map((one) => client.getSnapshotDetail(one, { signal })));
  const bytes = layerBytes(detail as SnapshotInfoDetail, parent);
  if (context.out.isJson) {
    context.out.json({ ...info, parent_tag: from, layer_bytes: bytes, chain_depth: detail?.chain_depth });
    return;
  }
  context.out.line(info.tag);
  const parts = [`on ${from}, ${detail?.chain_depth} deep`, `its layer holds ${formatBytes(bytes)}`];
  if (info.pause_us !== undefined) parts.push(`paused ${formatMs(info.pause_us / 1000)}`);
  context.out.note(parts.join('; '));
}
