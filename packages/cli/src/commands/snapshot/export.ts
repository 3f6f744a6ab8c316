import { resolve } from 'node:path';
import { defineCommand, type Call } from '../../command.ts';
import { withProgress } from '../../output/progress.ts';
import { formatBytes } from '../../output/text.ts';
import { resolveSnapshot } from '../../parse/resolve.ts';
import { formatOption, type FormatOptions } from './format.ts';

export const exportCommand = defineCommand<FormatOptions>({
  name: 'export',
  summary: 'write a snapshot as files that Firecracker loads',
  description:
    "Creates DIR with vmstate, memory.bin, root.img and forkd.json. If the file system supports it, the files share blocks\nwith the store. Works only for snapshots taken with Firecracker, and only on the controller's host.",
  args: [
    { name: 'tag', summary: 'tag, or the beginning of it', completes: 'snapshot' },
    { name: 'dir', summary: 'directory to create', completes: 'directory' },
  ],
  options: [formatOption],
  examples: [{ line: 'forkd snapshot export py ./py --format firecracker', summary: 'export a snapshot' }],
  run,
});

async function run({ context, args, options: { format } }: Call<FormatOptions>): Promise<void> {
  const [text = '', given = ''] = args;
  const client = await context.client();
  const tag = await resolveSnapshot(client, text, context);
  const dir = resolve(given);
  const work = client.exportSnapshot(tag, { format, dir }, { signal: context.signal });
  const done = await withProgress(context.out, 'export', `${tag} to ${dir}`, work);
  if (context.out.isJson) context.out.json(done);
  else context.out.line(`${done.dir}  ${formatBytes(done.memory_physical_bytes)} of memory`);
}
