import { CodedError } from '@forkd/api/constants';
import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { reportOf } from '../lib/errors.ts';
import { pickSandbox, resolveEnded, resolveSnapshot } from '../parse/resolve.ts';

export const inspect = defineCommand({
  name: 'inspect',
  summary: 'print a sandbox, a snapshot or a workspace as JSON',
  description:
    'If several have the same name, a sandbox comes first, then a workspace. A sandbox that ended in the last hour comes last. `forkd workspace get` and `forkd snapshot-info` look at one kind only.',
  args: [{ name: 'what', summary: 'id, name or tag, or the beginning of an id or a tag', completes: 'sandbox' }],
  options: [],
  examples: [{ line: 'forkd inspect sb-1f', summary: 'inspect a sandbox' }],
  run,
});

async function run({ context, args }: Call<unknown>): Promise<void> {
  const client = await context.client();
  context.out.json(await find(context, client, args[0] ?? ''));
}

async function find(context: Context, client: ForkdClient, text: string): Promise<unknown> {
  const { signal } = context;
  const sandboxes = await client.listSandboxes({ signal });
  const workspace = (await client.listWorkspaces({ signal })).find(({ name }) => name === text);
  const snapshots = await client.listSnapshots({ signal });
  const exact =
    sandboxes.find(({ id, name }) => id === text || name === text) ??
    workspace ??
    snapshots.find(({ tag }) => tag === text);
  if (exact !== undefined) return exact;
  const byPrefix = await attempt(() => pickSandbox(sandboxes, text), 'not_found_sandbox');
  if (byPrefix !== undefined) return sandboxes.find(({ id }) => id === byPrefix);
  const tag = await attempt(() => resolveSnapshot(client, text, context), 'not_found_snapshot');
  if (tag !== undefined) return snapshots.find((snapshot) => snapshot.tag === tag);
  const ended = await attempt(() => resolveEnded(client, text, context), 'not_found_sandbox');
  if (ended !== undefined) return ended;
  throw new CodedError('not_found', `There is no sandbox, workspace or snapshot "${text}".`);
}

/** Returns undefined if nothing has this name. An ambiguous prefix is still an error. */
async function attempt<Result>(look: () => Result | Promise<Result>, missing: string): Promise<Result | undefined> {
  try {
    return await look();
  } catch (error) {
    if (reportOf(error).code === missing) return undefined;
    throw error;
  }
}
