import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { CommandError, reportOf } from '../lib/errors.ts';
import { pickSandbox, resolveSnapshot } from '../lib/resolve.ts';

export const inspect = defineCommand({
  name: 'inspect',
  summary: 'all that is known of a sandbox, a snapshot or a workspace, as JSON',
  description:
    'A sandbox goes before a workspace, and that before a snapshot of the same name; `forkd workspace get` and `forkd snapshot-info` name one kind.',
  args: [{ name: 'what', summary: 'id, name or tag, or a beginning of an id or a tag', completes: 'sandbox' }],
  options: [],
  examples: [{ line: 'forkd inspect sb-1f', summary: 'a sandbox' }],
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
  throw new CommandError('not_found', `there is no sandbox, workspace or snapshot "${text}"`);
}

/** Undefined where there is none; that a beginning could be several is an error all the same. */
async function attempt<Result>(look: () => Result | Promise<Result>, missing: string): Promise<Result | undefined> {
  try {
    return await look();
  } catch (error) {
    if (reportOf(error).code === missing) return undefined;
    throw error;
  }
}
