import { createInterface } from 'node:readline';
import { Snapshot } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import type { Context } from '../context.ts';
import { withCount } from '../output/progress.ts';
import { plural } from '../output/text.ts';

interface Options {
  yes?: boolean;
}

export const cleanup = defineCommand<Options>({
  name: 'cleanup',
  summary: 'remove snapshots that failed',
  description:
    'Removes only what is dead: sandboxes stay. Asks first. Without a terminal it only prints what it would do, unless --yes is given.',
  args: [],
  options: [{ flags: '-y, --yes', summary: 'do not ask' }],
  examples: [
    { line: 'forkd cleanup', summary: 'show what would be removed, and ask' },
    { line: 'forkd cleanup --yes', summary: 'without asking, for a script' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const { out, signal } = context;
  const client = await context.client();
  const failed = (await client.listSnapshots({ signal })).filter(({ status }) => status === 'failed');
  const tags = failed.map(({ tag }) => tag);
  if (!options.yes && !out.isJson) for (const tag of tags) out.note(`${tag}, which failed`);
  const isDone = tags.length === 0 || options.yes === true || (await agrees(context));
  // `force` removes only these snapshots. Snapshots that were made from them, if any, stay complete.
  if (isDone) {
    await withCount(out, 'cleanup', tags.length, async (tick) => {
      for (const tag of tags) {
        await Snapshot.delete(tag, { client, signal, force: true });
        tick();
      }
    });
  }
  if (out.isJson) {
    out.json({ done: isDone, snapshots: tags });
    return;
  }
  const what = plural(tags.length, 'failed snapshot');
  out.line(isDone ? `removed: ${what}` : `would be removed: ${what}`);
  if (!isDone) out.note('Nothing was changed. --yes does it without asking.');
  const running = (await client.listSandboxes({ signal })).length;
  if (running > 0)
    out.note(`${plural(running, 'sandbox stays', 'sandboxes stay')}. \`forkd kill --all\` ends sandboxes.`);
}

async function agrees({ out, signal }: Context): Promise<boolean> {
  const { stdin, stderr } = out.streams;
  if (out.isJson || !stdin.isTTY || !stderr.isTTY) return false;
  stderr.write('Remove them? [y/N] ');
  // `terminal: true` would make readline handle Ctrl-C itself.
  const lines = createInterface({ input: stdin, terminal: false, signal });
  try {
    for await (const line of lines) return /^y(es)?$/i.test(line.trim());
    signal.throwIfAborted();
    return false;
  } finally {
    lines.close();
  }
}
