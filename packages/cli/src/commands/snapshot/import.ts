import { resolve } from 'node:path';
import { limits } from '@forkd/api/constants';
import { defineCommand, type Call } from '../../command.ts';
import { withProgress } from '../../output/progress.ts';
import { integer, tag as tagOf } from '../../parse/parse.ts';
import { formatOption, type FormatOptions } from './format.ts';

type Options = FormatOptions & { rootfs?: string; vcpus?: number };

export const importCommand = defineCommand<Options>({
  name: 'import',
  summary: "make a snapshot from Firecracker's files",
  description:
    "DIR contains vmstate and memory.bin. A directory that `forkd snapshot export` wrote needs nothing else. For files of another\nprogram, give the root image and the number of processors. Works only on the controller's host, with --engine firecracker.",
  args: [
    { name: 'dir', summary: 'directory with vmstate and memory.bin', completes: 'directory' },
    { name: 'tag', summary: 'name of the snapshot' },
  ],
  options: [
    formatOption,
    { flags: '--rootfs <file>', summary: 'root image, if the directory contains none', completes: 'file' },
    {
      flags: '--vcpus <n>',
      summary: `number of processors, if the directory does not say (default: ${limits.vcpusDefault})`,
      parse: integer('--vcpus', limits.vcpusMin, limits.vcpusMax),
    },
  ],
  examples: [
    { line: 'forkd snapshot import ./py py2 --format firecracker', summary: 'files of an export' },
    {
      line: 'forkd snapshot import ./theirs theirs --format firecracker --rootfs root.erofs',
      summary: 'files of another program',
    },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const [given = '', text = ''] = args;
  const { format, rootfs, vcpus } = options;
  const [dir, tag] = [resolve(given), tagOf(text)];
  const request = {
    format,
    dir,
    ...(rootfs !== undefined && { rootfs: resolve(rootfs) }),
    ...(vcpus !== undefined && { vcpus }),
  };
  const client = await context.client();
  const work = client.importSnapshot(tag, request, { signal: context.signal });
  const info = await withProgress(context.out, 'import', `${dir} to ${tag}`, work);
  if (context.out.isJson) context.out.json(info);
  else context.out.line(info.tag);
}
