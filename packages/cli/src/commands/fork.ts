import { setTimeout as delay } from 'node:timers/promises';
import type { CreateSandboxesRequest, ForkResult, Safety, SandboxInfo } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { agentAddress, serveAgent, type AgentAddress } from '../lib/agent-port.ts';
import { exitCodes, UsageError } from '../lib/errors.ts';
import { endThrowaway } from '../lib/throwaway.ts';
import { withProgress } from '../output/progress.ts';
import { formatMs } from '../output/text.ts';
import { hostFields, hostOptions, nameOption, safetyOption, type HostOptions } from '../parse/fork-options.ts';
import { networkOf, networkOptions, type NetworkOptions } from '../parse/network-options.ts';
import { accepted } from '../parse/older-options.ts';
import { integer, wholeSeconds } from '../parse/parse.ts';
import { resolveSnapshot } from '../parse/resolve.ts';

type Options = HostOptions &
  NetworkOptions & {
    tag?: string;
    count: number;
    name?: string;
    ttl?: number;
    onExpire?: 'kill' | 'pause';
    partial?: boolean;
    safety?: Safety;
    liveFork?: boolean;
    prewarm?: boolean;
    hugepages?: boolean;
    n?: number;
    settleSecs?: number;
    agentAddress?: AgentAddress;
  };

/** Longest wait of --settle-secs, and the time to live that a sandbox has beyond it, in case this process is killed. */
const SETTLE_SECS_MAX = 7 * 86_400;
const SETTLE_GRACE_SECS = 60;

export const fork = defineCommand<Options>({
  name: 'fork',
  aliases: ['spawn'],
  summary: 'start sandboxes from a snapshot',
  description: 'Prints their ids, one per line.',
  args: [
    {
      name: 'tag',
      summary: 'snapshot to start from: its tag, or the beginning of it',
      optional: true,
      completes: 'snapshot',
    },
  ],
  options: [
    { flags: '--tag <tag>', summary: 'the same snapshot, as an option', completes: 'snapshot' },
    {
      flags: '-n, --count <n>',
      summary: 'number of sandboxes',
      parse: integer('-n', limits.forkCountMin, limits.forkCountMax),
      default: limits.forkCountDefault,
    },
    nameOption,
    ...hostOptions,
    ...networkOptions,
    {
      flags: '--ttl <time>',
      summary: 'lifetime of each, such as 90, 15m or 2h (default: until it is killed)',
      parse: wholeSeconds('--ttl', 1, limits.ttlSecsMax),
    },
    {
      flags: '--on-expire <what>',
      summary: 'what happens at the end of its lifetime (default: kill)',
      choices: ['kill', 'pause'],
    },
    safetyOption('refuse a snapshot that was not taken with --safety strict'),
    { flags: '--partial', summary: 'if some fail, keep the others and exit with 1' },
    {
      flags: '--settle-secs <secs>',
      summary: 'stay for this time, then kill them; they are killed too when forkd is ended',
      parse: wholeSeconds('--settle-secs', 0, SETTLE_SECS_MAX),
      conflicts: ['ttl'],
    },
    {
      flags: '--agent-address <host:port>',
      summary: 'with --settle-secs: speak the one-line protocol of earlier agents there (env FORKD_TARGET)',
      parse: agentAddress,
    },
    {
      flags: '--n <n>',
      summary: 'the same as -n',
      parse: integer('--n', limits.forkCountMin, limits.forkCountMax),
      hidden: true,
    },
    accepted('--live-fork', 'every sandbox can be branched live'),
    accepted('--prewarm', 'a first branch costs no more than later ones'),
    accepted('--hugepages', 'a warning says what holds'),
    accepted('--keep-workdir', 'nothing is left behind'),
  ],
  examples: [
    { line: 'forkd fork py -n 10', summary: 'start ten children of a template' },
    { line: 'forkd fork py --net none --allow pypi.org', summary: 'start one that may reach one name' },
    { line: 'ID=$(forkd fork -q --tag py)', summary: 'start one, for a script' },
    {
      line: 'forkd fork py --name web --label team=core --ttl 2h',
      summary: 'start one with a name, a label and a lifetime',
    },
  ],
  run,
});

async function run({ context, args, options: given }: Call<Options>): Promise<number> {
  const options = { ...given, count: given.n ?? given.count };
  const text = args[0] ?? options.tag;
  if (text === undefined || (args[0] !== undefined && options.tag !== undefined)) {
    throw new UsageError('fork: Give one snapshot.', 'Write it as `forkd fork TAG` or `forkd fork --tag TAG`.');
  }
  if (options.name !== undefined && options.count > 1) {
    throw new UsageError(`fork: --name is for one sandbox, and -n is ${options.count}.`, 'Use --label for several.');
  }
  if (options.onExpire !== undefined && options.ttl === undefined) {
    throw new UsageError('fork: --on-expire goes with --ttl.');
  }
  const address = options.agentAddress ?? (options.settleSecs === undefined ? undefined : targetOf(context));
  if (options.agentAddress !== undefined && (options.settleSecs === undefined || options.count > 1)) {
    throw new UsageError('fork: --agent-address goes with --settle-secs and one sandbox.');
  }
  const client = await context.client();
  const tag = await resolveSnapshot(client, text, context);
  const request = requestOf(tag, options);
  const startMs = performance.now();
  const count = countStarted(context, client, tag, options.count);
  const what = () => `${count.text()} from ${tag}`;
  const results = await withProgress(context.out, 'fork', what, start(context, client, request)).finally(count.end);
  const started = results.flatMap((result) => ('sandbox' in result ? [result.sandbox] : []));
  const tookMs = performance.now() - startMs;
  report(context, options.partial === true ? { results } : started, started);
  for (const result of results) if ('error' in result) context.out.warn(`child ${result.index}: ${result.error}`);
  context.out.note(`${started.length} from ${tag} in ${formatMs(tookMs)}`);
  if (options.settleSecs !== undefined) await settle(context, client, started, options.settleSecs, address);
  return started.length === results.length ? exitCodes.ok : exitCodes.failure;
}

function requestOf(tag: string, options: Options): CreateSandboxesRequest {
  const request: CreateSandboxesRequest = { snapshot_tag: tag, n: options.count, ...hostFields(options) };
  const network = networkOf(options);
  if (network !== undefined) request.network = network;
  if (options.liveFork) request.live_fork = true;
  if (options.prewarm) request.prewarm = true;
  if (options.hugepages) request.hugepages = true;
  if (options.settleSecs !== undefined) request.ttl_secs = options.settleSecs + SETTLE_GRACE_SECS;
  if (options.name !== undefined) request.name = options.name;
  if (options.ttl !== undefined) request.ttl_secs = options.ttl;
  if (options.onExpire !== undefined) request.on_expire = options.onExpire;
  if (options.partial) request.partial = true;
  if (options.safety !== undefined) request.safety = options.safety;
  return request;
}

async function start(context: Context, client: ForkdClient, request: CreateSandboxesRequest): Promise<ForkResult[]> {
  const { signal } = context;
  if (request.partial) return (await client.createSandboxesPartially(request, { signal })).results;
  return (await client.createSandboxes(request, { signal })).map((sandbox, index) => ({ index, sandbox }));
}

/**
 * Says on a terminal how many children have started, from the controller's events. Other callers may fork the same snapshot
 * meanwhile, so the count stops at `total`.
 */
function countStarted({ out }: Context, client: ForkdClient, tag: string, total: number) {
  if (total < 2 || !out.streams.stderr.isTTY) return { text: () => String(total), end: () => {} };
  const abort = new AbortController();
  let started = 0;
  const count = async () => {
    for await (const event of client.events({}, { signal: abort.signal })) {
      if (event.type === 'sandbox.created' && event.snapshot === tag) started += 1;
    }
  };
  // The fork itself reports what is wrong.
  count().catch(() => {});
  return { text: () => `${Math.min(started, total)} of ${total}`, end: () => abort.abort() };
}

/** Programs of earlier releases name the agent by this variable, and pass it on. Another host's address is none of ours. */
function targetOf({ env, out }: Context): AgentAddress | undefined {
  const target = env['FORKD_TARGET'];
  if (!target) return undefined;
  try {
    return agentAddress(target);
  } catch {
    out.warn(
      `FORKD_TARGET is ${target}, where nothing answers; set it to an address of this host, such as 127.0.0.1:8888.`,
    );
    return undefined;
  }
}

/** Waits until the time is over or this process is ended, and then kills the sandboxes. */
async function settle(
  context: Context,
  client: ForkdClient,
  sandboxes: readonly SandboxInfo[],
  secs: number,
  address: AgentAddress | undefined,
): Promise<void> {
  const { signal } = context;
  const [only, ...others] = sandboxes;
  let endAgent: (() => void) | undefined;
  try {
    if (address !== undefined && only !== undefined && others.length === 0) {
      endAgent = await serveAgent(client, only.id, address);
    }
    await delay(secs * 1000, undefined, { signal }).catch(() => signal.throwIfAborted());
  } finally {
    endAgent?.();
    await Promise.all(sandboxes.map(({ id }) => endThrowaway(context, client, id)));
  }
}

function report(context: Context, json: unknown, started: readonly SandboxInfo[]): void {
  if (context.out.isJson) context.out.json(json);
  else for (const sandbox of started) context.out.line(sandbox.id);
  const warnings = new Set(started.flatMap((sandbox) => sandbox.warnings ?? []));
  for (const warning of warnings) context.out.warn(warning);
}
