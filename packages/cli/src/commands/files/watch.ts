import { Files } from '@forkd/sdk';
import { defineCommand, type Call } from '../../command.ts';
import { guestPathOf } from './guest-path.ts';

interface Options {
  recursive?: boolean;
}

const TYPE_COLUMNS = 8;

export const watch = defineCommand<Options>({
  name: 'watch',
  summary: 'print what happens to a file or a directory of a sandbox, as it happens',
  description:
    'Runs until Ctrl-C, or until the path itself is removed or renamed. The line `ready` comes first: what happens after it ' +
    'is printed. The line `overflow` says that changes are missing. With --json it prints one object per line.',
  args: [{ name: 'path', summary: 'SANDBOX:PATH' }],
  options: [{ flags: '-r, --recursive', summary: 'watch the directories in it too, at most 4096' }],
  examples: [
    { line: 'forkd files watch sb-1f:/srv', summary: 'changes of the files in /srv' },
    { line: 'forkd files watch -r --json sb-1f:/srv', summary: 'and below it, for a program' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const { client, sandboxId, path } = await guestPathOf(context, args[0] ?? '');
  const { out, signal } = context;
  const recursive = options.recursive === true;
  for await (const event of new Files(client, sandboxId).watch(path, { recursive, signal })) {
    if (out.isJson) out.jsonLine(event);
    else out.line([event.type.padEnd(TYPE_COLUMNS), event.path, event.to && `-> ${event.to}`].join(' ').trimEnd());
  }
}
