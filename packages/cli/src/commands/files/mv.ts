import { defineCommand, type Call } from '../../command.ts';
import { guestPathOf } from './guest-path.ts';

export const mv = defineCommand({
  name: 'mv',
  summary: 'rename a file or a directory of a sandbox',
  description: 'A file at the new path is replaced.',
  args: [
    { name: 'path', summary: 'SANDBOX:PATH' },
    { name: 'to', summary: 'new path in the same sandbox' },
  ],
  options: [],
  examples: [{ line: 'forkd files mv sb-1f:/srv/data /srv/old', summary: 'rename a directory' }],
  run,
});

async function run({ context, args }: Call<Record<string, unknown>>): Promise<void> {
  const { client, sandboxId, path } = await guestPathOf(context, args[0] ?? '');
  await client.renameFile(sandboxId, path, args[1] ?? '', { signal: context.signal });
}
