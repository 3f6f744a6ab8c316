import path from 'node:path';
import { defineCommand, type Call } from '../../command.ts';
import { withProgress } from '../../lib/progress.ts';
import { resolveSnapshot } from '../../lib/resolve.ts';
import { formatBytes } from '../../lib/text.ts';
import { formatOption, type FormatOptions } from './format.ts';

export const exportCommand = defineCommand<FormatOptions>({
  name: 'export',
  summary: 'write a snapshot as the files that Firecracker itself loads',
  description:
    'DIR is made, and gets vmstate, memory.bin, root.img and forkd.json. Where the file system can, the files share their\nblocks with the store. Only of snapshots that were taken with Firecracker, and only on the host of the controller.',
  args: [
    { name: 'tag', summary: 'tag, or a beginning of it', completes: 'snapshot' },
    { name: 'dir', summary: 'directory that is not there yet', completes: 'directory' },
  ],
  options: [formatOption],
  examples: [{ line: 'forkd snapshot export py ./py --format firecracker', summary: 'its chain made flat' }],
  run,
});

async function run({ context, args, options: { format } }: Call<FormatOptions>): Promise<void> {
  const [text = '', given = ''] = args;
  const client = await context.client();
  const tag = await resolveSnapshot(client, text, context);
  const dir = path.resolve(given);
  const work = client.exportSnapshot(tag, { format, dir }, { signal: context.signal });
  const done = await withProgress(context.out, 'export', `${tag} to ${dir}`, work);
  if (context.out.isJson) context.out.json(done);
  else context.out.line(`${done.dir}  ${formatBytes(done.memory_physical_bytes)} of memory`);
}
