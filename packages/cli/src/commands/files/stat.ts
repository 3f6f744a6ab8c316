import { defineCommand, type Call } from '../../command.ts';
import { formatBytes } from '../../output/text.ts';
import { guestPathOf } from './guest-path.ts';

interface Options {
  follow?: boolean;
}

export const stat = defineCommand<Options>({
  name: 'stat',
  summary: 'describe what is at a path of a sandbox',
  args: [{ name: 'path', summary: 'SANDBOX:PATH' }],
  options: [{ flags: '-L, --follow', summary: 'describe what is behind symbolic links' }],
  examples: [{ line: 'forkd files stat sb-1f:/etc/passwd', summary: 'type, size, mode and owner' }],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const { client, sandboxId, path } = await guestPathOf(context, args[0] ?? '');
  const query = { follow: options.follow === true };
  const found = await client.statFile(sandboxId, path, query, { signal: context.signal });
  if (context.out.isJson) {
    context.out.json(found);
    return;
  }
  context.out.fields({
    type: found.type,
    size: formatBytes(found.size),
    mode: found.mode,
    owner: `${found.uid}:${found.gid}`,
    changed: new Date(found.mtime_unix * 1000).toISOString(),
    target: found.target ?? undefined,
  });
}
