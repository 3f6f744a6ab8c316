import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import { Context, type GlobalOptions } from '../context.ts';

interface Line {
  name: string;
  about: string;
}

/** Short, because a user has pressed Tab and is waiting. */
const TIMEOUT_MS = 1500;
const GLOBALS: Record<string, 'daemonUrl' | 'daemonToken' | 'dataDir'> = {
  '--daemon-url': 'daemonUrl',
  '--daemon-token': 'daemonToken',
  '--data-dir': 'dataDir',
};

/** Called by the scripts of `forkd completion`: prints names of one kind, one per line, each with a tab and a description. */
export const complete = defineCommand({
  name: '__complete',
  summary: 'print names for shell completion',
  args: [
    { name: 'kind', summary: 'kind of names', choices: ['sandbox', 'snapshot', 'workspace'] },
    { name: 'line', summary: 'the command line so far; it may name a controller', optional: true, variadic: true },
  ],
  options: [],
  examples: [],
  hidden: true,
  run,
});

async function run({ context, args: [kind = '', ...line] }: Call<unknown>): Promise<void> {
  // The timeout bounds everything, including the search for the controller.
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const { out, env, interrupts, globals } = context;
  try {
    const asked = new Context({ out, env, interrupts, globals: { ...globals, ...globalsOf(line) } });
    const client = await asked.runningClient(signal);
    for (const { name, about } of await namesOf(client, kind, signal)) out.line(`${name}\t${about}`);
  } catch {
    // An error would be written into the middle of the line that the user is typing.
  }
}

async function namesOf(client: ForkdClient, kind: string, signal: AbortSignal): Promise<Line[]> {
  if (kind === 'snapshot') {
    const snapshots = await client.listSnapshots({ signal });
    return snapshots.map(({ tag, status }) => ({ name: tag, about: status }));
  }
  if (kind === 'workspace') {
    const workspaces = await client.listWorkspaces({ signal });
    return workspaces.map(({ name, status }) => ({ name, about: status }));
  }
  const sandboxes = await client.listSandboxes({ signal });
  return sandboxes.flatMap(({ id, name, snapshot_tag: about }) =>
    name === undefined
      ? [{ name: id, about }]
      : [
          { name, about: id },
          { name: id, about },
        ],
  );
}

/** Finds the options that select the controller, anywhere in the line. */
function globalsOf(line: readonly string[]): GlobalOptions {
  const globals: GlobalOptions = {};
  line.forEach((word, index) => {
    const [flag = '', value] = word.split(/=(.*)/s);
    const name = GLOBALS[flag];
    if (name === undefined) return;
    const given = value ?? line[index + 1];
    if (given !== undefined) globals[name] = given;
  });
  return globals;
}
