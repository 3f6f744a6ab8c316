import type { ForkdClient } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import { Context, type GlobalOptions } from '../context.ts';

type Line = { name: string; about: string };

/** Whoever presses Tab waits for this. */
const TIMEOUT_MS = 1500;
const GLOBALS: Record<string, 'daemonUrl' | 'daemonToken' | 'dataDir'> = {
  '--daemon-url': 'daemonUrl',
  '--daemon-token': 'daemonToken',
  '--data-dir': 'dataDir',
};

/** What the scripts of `forkd completion` ask: the names of one kind, a line each, with a tab before what they are. */
export const complete = defineCommand({
  name: '__complete',
  summary: 'names for the completion of a shell',
  args: [
    { name: 'kind', summary: 'what is to be named', choices: ['sandbox', 'snapshot', 'workspace'] },
    { name: 'line', summary: 'the command line so far, which says which controller', optional: true, variadic: true },
  ],
  options: [],
  examples: [],
  hidden: true,
  run,
});

async function run({ context, args: [kind = '', ...line] }: Call<unknown>): Promise<void> {
  // A signal of our own over it all: to find the controller takes time too.
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

/** The options that say which controller, wherever they stand in the line. */
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
