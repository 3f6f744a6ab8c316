import { Snapshot } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import { printTemplate } from '../lib/build.ts';
import { Progress } from '../output/progress.ts';
import { resolveSnapshot } from '../parse/resolve.ts';

export const rebuild = defineCommand({
  name: 'rebuild',
  summary: 'build a template again, from what it was built from',
  description:
    'For a template that this host cannot restore, such as after an upgrade of QEMU: `forkd images` marks it. It is replaced once the new\none is ready. Sources, files to copy and packages are looked for again where they were.',
  args: [{ name: 'tag', summary: 'tag, or the beginning of it', completes: 'snapshot' }],
  options: [],
  examples: [{ line: 'forkd rebuild py', summary: 'after an upgrade of QEMU' }],
  run,
});

async function run({ context, args }: Call<unknown>): Promise<void> {
  const client = await context.client();
  const tag = await resolveSnapshot(client, args[0] ?? '', context);
  const snapshot = await Snapshot.get(tag, { client, signal: context.signal });
  const progress = new Progress(context.out);
  try {
    const built = await snapshot.rebuild({ signal: context.signal, onProgress: (event) => progress.show(event) });
    progress.end();
    printTemplate(context, built);
  } finally {
    progress.end();
  }
}
