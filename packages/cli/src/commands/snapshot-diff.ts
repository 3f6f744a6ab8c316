import type { SnapshotInfo, SnapshotInfoDetail } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { CommandError } from '../lib/errors.ts';
import { followCommand } from '../lib/follow.ts';
import { layerBytes } from '../lib/layers.ts';
import { writeBytes } from '../lib/output.ts';
import { seconds, tag } from '../lib/parse.ts';
import { Progress } from '../lib/progress.ts';
import { resolveSnapshot } from '../lib/resolve.ts';
import { formatBytes, formatMs } from '../lib/text.ts';
import { withThrowaway } from '../lib/throwaway.ts';

type Options = { from: string; tag: string; exec: string; execTimeout: number; keep?: boolean };

const EXEC_TIMEOUT_SECS = 600;
/** Of the command's output, what an error tells where nobody has seen it. */
const TAIL_BYTES = 2000;

export const snapshotDiff = defineCommand<Options>({
  name: 'snapshot-diff',
  summary: 'build a snapshot on another one: fork it, run a command, keep what changed',
  description:
    'The command is given to `sh -c` in a child of the snapshot, its output goes to stderr. If it fails, nothing is kept.',
  args: [],
  options: [
    {
      flags: '--from <tag>',
      summary: 'snapshot to build on, or a beginning of its tag',
      required: true,
      completes: 'snapshot',
    },
    { flags: '--tag <tag>', summary: 'name of the new snapshot', required: true, parse: tag },
    { flags: '--exec <command>', summary: 'what to run', required: true },
    {
      flags: '--exec-timeout <time>',
      summary: 'how long it may run, such as 90, 15m or 2h',
      parse: seconds('--exec-timeout', limits.execTimeoutSecsMax),
      default: EXEC_TIMEOUT_SECS,
    },
    { flags: '--keep', summary: 'leave the child running' },
  ],
  examples: [
    { line: 'forkd snapshot-diff --from py --tag py-app --exec "cp -r /srv/app /opt"', summary: 'one layer more' },
    { line: 'forkd snapshot-diff --from py --tag big --exec ./build --exec-timeout 2h', summary: 'a long step' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const client = await context.client();
  const { signal } = context;
  const from = await resolveSnapshot(client, options.from, context);
  // Before the command has run for minutes, not after it.
  if ((await client.listSnapshots({ signal })).some((snapshot) => snapshot.tag === options.tag)) {
    throw new CommandError('tag_exists', `there is a snapshot "${options.tag}" already`, 'choose another --tag');
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
  const request = { args: ['sh', '-c', options.exec], timeout_secs: options.execTimeout };
  const events = client.startCommandEvents(sandboxId, request, { signal });
  const ending = await followCommand({
    context,
    client,
    sandboxId,
    events,
    stdin: 'none',
    write: async (_, bytes) => {
      if (isShown) await writeBytes(out.streams.stderr, bytes);
      else tail = Buffer.concat([tail, bytes]).subarray(-TAIL_BYTES);
    },
  });
  if (ending.exitCode === 0) return;
  const said = tail.toString('utf8').trim();
  const how = ending.timedOut ? `did not end within ${options.execTimeout} s` : `ended with ${ending.exitCode}`;
  throw new CommandError(
    'exec_failed',
    `"${options.exec}" ${how}, and no snapshot was made${said === '' ? '' : `:\n${said}`}`,
    ending.timedOut
      ? 'give it longer with --exec-timeout'
      : `run it by hand in a child: forkd run ${options.from} -- …`,
  );
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
  if (info.pause_ms !== undefined) parts.push(`paused ${formatMs(info.pause_ms)}`);
  context.out.note(parts.join('; '));
}
