import type { CreateSandboxesRequest } from '@forkd/api';
import { limits } from '@forkd/api/constants';
import { defineCommand, type Call } from '../command.ts';
import { integer } from '../lib/parse.ts';
import { resolveSnapshot } from '../lib/resolve.ts';
import { formatMs } from '../lib/text.ts';

type Options = { tag: string; count: number; perChildNetns?: boolean; liveFork?: boolean; memoryLimitMib?: number };

export const fork = defineCommand<Options>({
  name: 'fork',
  aliases: ['spawn'],
  summary: 'start sandboxes from a snapshot',
  description: 'Prints their ids, one a line.',
  args: [],
  options: [
    { flags: '--tag <tag>', summary: 'snapshot to start from, or a beginning of its tag', required: true },
    {
      flags: '-n, --count <n>',
      summary: 'how many',
      parse: integer('-n', limits.forkCountMin, limits.forkCountMax),
      default: limits.forkCountDefault,
    },
    {
      flags: '--memory-limit-mib <mib>',
      summary: 'limit of what each may take of the host',
      parse: integer('--memory-limit-mib', 1, limits.memMibMax),
    },
    { flags: '--per-child-netns', summary: 'give each a network namespace of its own' },
    { flags: '--live-fork', summary: 'accepted: every sandbox can be branched live', hidden: true },
  ],
  examples: [
    { line: 'forkd fork --tag python -n 10', summary: 'ten children of a template' },
    { line: 'ID=$(forkd fork -q --tag python)', summary: 'one, for a script' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const client = await context.client();
  const { signal } = context;
  const tag = await resolveSnapshot(client, options.tag, context);
  const request: CreateSandboxesRequest = { snapshot_tag: tag, n: options.count };
  if (options.perChildNetns) request.per_child_netns = true;
  if (options.liveFork) request.live_fork = true;
  if (options.memoryLimitMib !== undefined) request.memory_limit_mib = options.memoryLimitMib;
  const startMs = performance.now();
  const sandboxes = await client.createSandboxes(request, { signal });
  const tookMs = performance.now() - startMs;
  if (context.out.isJson) {
    context.out.json(sandboxes);
    return;
  }
  for (const sandbox of sandboxes) context.out.line(sandbox.id);
  context.out.note(`${sandboxes.length} from ${tag} in ${formatMs(tookMs)}`);
}
