import { defineCommand, type Call } from '../../command.ts';
import { guestPathOf } from './guest-path.ts';

interface Options {
  mode?: string;
}

export const mkdir = defineCommand<Options>({
  name: 'mkdir',
  summary: 'make a directory in a sandbox, and those that lead to it',
  args: [{ name: 'path', summary: 'SANDBOX:PATH' }],
  options: [{ flags: '-m, --mode <octal>', summary: 'permission bits of a new directory; default: 0755' }],
  examples: [{ line: 'forkd files mkdir sb-1f:/srv/data -m 0700', summary: 'for its owner alone' }],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const { client, sandboxId, path } = await guestPathOf(context, args[0] ?? '');
  const query = options.mode === undefined ? {} : { mode: options.mode };
  await client.makeDir(sandboxId, path, query, { signal: context.signal });
}
