import type { CreateSandboxesRequest, ForkResult, SandboxInfo } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { exitCodes, UsageError } from '../lib/errors.ts';
import { hostFields, hostOptions, nameOption, type HostOptions } from '../lib/fork-options.ts';
import { integer, wholeSeconds } from '../lib/parse.ts';
import { withProgress } from '../lib/progress.ts';
import { resolveSnapshot } from '../lib/resolve.ts';
import { formatMs } from '../lib/text.ts';

type Options = HostOptions & {
  tag?: string;
  count: number;
  name?: string;
  ttl?: number;
  onExpire?: 'kill' | 'pause';
  partial?: boolean;
  liveFork?: boolean;
};

export const fork = defineCommand<Options>({
  name: 'fork',
  aliases: ['spawn'],
  summary: 'start sandboxes from a snapshot',
  description: 'Prints their ids, one a line.',
  args: [
    {
      name: 'tag',
      summary: 'snapshot to start from, or a beginning of its tag',
      optional: true,
      completes: 'snapshot',
    },
  ],
  options: [
    { flags: '--tag <tag>', summary: 'the same as an option', completes: 'snapshot' },
    {
      flags: '-n, --count <n>',
      summary: 'how many',
      parse: integer('-n', limits.forkCountMin, limits.forkCountMax),
      default: limits.forkCountDefault,
    },
    nameOption,
    ...hostOptions,
    {
      flags: '--ttl <time>',
      summary: 'how long each lives, such as 90, 15m or 2h (default: until it is ended)',
      parse: wholeSeconds('--ttl', 1, limits.ttlSecsMax),
    },
    { flags: '--on-expire <what>', summary: 'what becomes of it then (default: kill)', choices: ['kill', 'pause'] },
    { flags: '--partial', summary: 'keep those that started when others fail; exit code 1 then' },
    { flags: '--live-fork', summary: 'accepted: every sandbox can be branched live', hidden: true },
  ],
  examples: [
    { line: 'forkd fork py -n 10', summary: 'ten children of a template' },
    { line: 'ID=$(forkd fork -q --tag py)', summary: 'one, for a script' },
    { line: 'forkd fork py --name web --label team=core --ttl 2h', summary: 'one to be found again, for two hours' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<number> {
  const text = args[0] ?? options.tag;
  if (text === undefined || (args[0] !== undefined && options.tag !== undefined)) {
    throw new UsageError('fork: give one snapshot', 'as `forkd fork TAG` or `forkd fork --tag TAG`');
  }
  if (options.name !== undefined && options.count > 1) {
    throw new UsageError(`fork: --name is for one sandbox, and -n is ${options.count}`, 'use --label for several');
  }
  if (options.onExpire !== undefined && options.ttl === undefined) {
    throw new UsageError('fork: --on-expire goes with --ttl');
  }
  const client = await context.client();
  const tag = await resolveSnapshot(client, text, context);
  const request = requestOf(tag, options);
  const startMs = performance.now();
  const what = `${options.count} from ${tag}`;
  const results = await withProgress(context.out, 'fork', what, start(context, client, request));
  const started = results.flatMap((result) => ('sandbox' in result ? [result.sandbox] : []));
  const tookMs = performance.now() - startMs;
  report(context, options.partial === true ? { results } : started, started);
  for (const result of results) if ('error' in result) context.out.warn(`child ${result.index}: ${result.error}`);
  context.out.note(`${started.length} from ${tag} in ${formatMs(tookMs)}`);
  return started.length === results.length ? exitCodes.ok : exitCodes.failure;
}

function requestOf(tag: string, options: Options): CreateSandboxesRequest {
  const request: CreateSandboxesRequest = { snapshot_tag: tag, n: options.count, ...hostFields(options) };
  if (options.liveFork) request.live_fork = true;
  if (options.name !== undefined) request.name = options.name;
  if (options.ttl !== undefined) request.ttl_secs = options.ttl;
  if (options.onExpire !== undefined) request.on_expire = options.onExpire;
  if (options.partial) request.partial = true;
  return request;
}

async function start(context: Context, client: ForkdClient, request: CreateSandboxesRequest): Promise<ForkResult[]> {
  const { signal } = context;
  if (request.partial) return (await client.createSandboxesPartially(request, { signal })).results;
  return (await client.createSandboxes(request, { signal })).map((sandbox, index) => ({ index, sandbox }));
}

function report(context: Context, json: unknown, started: readonly SandboxInfo[]): void {
  if (context.out.isJson) context.out.json(json);
  else for (const sandbox of started) context.out.line(sandbox.id);
  const warnings = new Set(started.flatMap((sandbox) => sandbox.warnings ?? []));
  for (const warning of warnings) context.out.warn(warning);
}
