import { createInterface } from 'node:readline';
import type { SandboxInfo } from '@forkd/api';
import { Sandbox, Snapshot, isForkdError, type ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { mapSome } from '../lib/concurrent.ts';
import { formatBytes, plural } from '../lib/text.ts';

type Options = { yes?: boolean };

/** What is to go. */
type Plan = { sandboxes: SandboxInfo[]; snapshots: string[]; memoryBytes: number };

export const cleanup = defineCommand<Options>({
  name: 'cleanup',
  summary: 'end the sandboxes that are left, and remove snapshots that failed',
  description:
    'Sandboxes of workspaces stay: they have an owner. It asks first; where nobody can be asked, it only says what it would do, unless --yes is given.',
  args: [],
  options: [{ flags: '-y, --yes', summary: 'do not ask' }],
  examples: [
    { line: 'forkd cleanup', summary: 'what there is to clear away' },
    { line: 'forkd cleanup --yes', summary: 'for a script' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const { out } = context;
  const client = await context.client();
  const plan = await makePlan(client, context.signal);
  const isEmpty = plan.sandboxes.length + plan.snapshots.length === 0;
  if (!isEmpty && !options.yes && !out.isJson) show(context, plan);
  const isDone = isEmpty || options.yes === true || (await agrees(context));
  if (isDone) await carryOut(client, plan, context.signal);
  if (out.isJson) {
    const ids = plan.sandboxes.map(({ id }) => id);
    out.json({ done: isDone, sandboxes: ids, snapshots: plan.snapshots, freed_memory_bytes: plan.memoryBytes });
    return;
  }
  const vms = plural(plan.sandboxes.length, 'virtual machine');
  const what = `${vms} with ${formatBytes(plan.memoryBytes)} of memory, ${plural(plan.snapshots.length, 'failed snapshot')}`;
  out.line(isDone ? `cleared away: ${what}` : `would be cleared away: ${what}`);
  if (!isDone) out.note('nothing was changed; --yes does it without asking');
}

async function makePlan(client: ForkdClient, signal: AbortSignal): Promise<Plan> {
  const sandboxes = (await client.listSandboxes({ signal })).filter(({ workspace }) => workspace === undefined);
  const memory = await mapSome(sandboxes, ({ id }) => privateBytes(client, id, signal));
  const snapshots = (await client.listSnapshots({ signal })).filter(({ status }) => status === 'failed');
  return {
    sandboxes,
    snapshots: snapshots.map(({ tag }) => tag),
    memoryBytes: memory.reduce((sum, bytes) => sum + bytes, 0),
  };
}

/** 0 for one that cannot be asked: it is to end all the same. */
async function privateBytes(client: ForkdClient, id: string, signal: AbortSignal): Promise<number> {
  try {
    return (await client.memory(id, { signal })).private_bytes;
  } catch (error) {
    if (isForkdError(error) && error.status > 0) return 0;
    throw error;
  }
}

function show({ out }: Context, plan: Plan): void {
  for (const { id, name, snapshot_tag: tag } of plan.sandboxes) out.note(`${id}${name ? ` (${name})` : ''} of ${tag}`);
  for (const tag of plan.snapshots) out.note(`${tag}, which failed`);
}

async function agrees({ out, signal }: Context): Promise<boolean> {
  const { stdin, stderr } = out.streams;
  if (out.isJson || !stdin.isTTY || !stderr.isTTY) return false;
  stderr.write('Clear all this away? [y/N] ');
  // Not as a terminal of its own, which would take Ctrl-C for itself.
  const lines = createInterface({ input: stdin, terminal: false, signal });
  try {
    for await (const line of lines) return /^y(es)?$/i.test(line.trim());
    signal.throwIfAborted();
    return false;
  } finally {
    lines.close();
  }
}

async function carryOut(client: ForkdClient, plan: Plan, signal: AbortSignal): Promise<void> {
  await mapSome(plan.sandboxes, ({ id }) => Sandbox.kill(id, { client, signal }));
  // Only their names go: what was made from them, if anything could be, is whole by itself.
  for (const tag of plan.snapshots) await Snapshot.delete(tag, { client, signal, force: true });
}
