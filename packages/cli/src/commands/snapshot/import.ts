import path from 'node:path';
import { limits } from '@forkd/api/constants';
import { defineCommand, type Call } from '../../command.ts';
import { integer, tag as tagOf } from '../../lib/parse.ts';
import { withProgress } from '../../lib/progress.ts';
import { formatOption, type FormatOptions } from './format.ts';

type Options = FormatOptions & { rootfs?: string; vcpus?: number };

export const importCommand = defineCommand<Options>({
  name: 'import',
  summary: "make a snapshot of Firecracker's files",
  description:
    'DIR has vmstate and memory.bin. What `forkd snapshot export` wrote says all else; for what another wrote, name the root\nimage and the number of processors. Only on the host of the controller, which must run with --engine firecracker.',
  args: [
    { name: 'dir', summary: 'directory with vmstate and memory.bin', completes: 'directory' },
    { name: 'tag', summary: 'name of the snapshot' },
  ],
  options: [
    formatOption,
    { flags: '--rootfs <file>', summary: 'its root image, where the directory has none', completes: 'file' },
    {
      flags: '--vcpus <n>',
      summary: `its processors, where the directory does not say (default: ${limits.vcpusDefault})`,
      parse: integer('--vcpus', limits.vcpusMin, limits.vcpusMax),
    },
  ],
  examples: [
    { line: 'forkd snapshot import ./py py2 --format firecracker', summary: 'what an export wrote' },
    {
      line: 'forkd snapshot import ./theirs theirs --format firecracker --rootfs root.erofs',
      summary: 'what another program wrote',
    },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const [given = '', text = ''] = args;
  const { format, rootfs, vcpus } = options;
  const [dir, tag] = [path.resolve(given), tagOf(text)];
  const request = {
    format,
    dir,
    ...(rootfs !== undefined && { rootfs: path.resolve(rootfs) }),
    ...(vcpus !== undefined && { vcpus }),
  };
  const client = await context.client();
  const work = client.importSnapshot(tag, request, { signal: context.signal });
  const info = await withProgress(context.out, 'import', `${dir} to ${tag}`, work);
  if (context.out.isJson) context.out.json(info);
  else context.out.line(info.tag);
}
