import path from 'node:path';
import type { CreateSnapshotRequest } from '@forkd/api';
import { defineCommand, type Call } from '../command.ts';
import { buildTemplate, printTemplate, templateFields, templateOptions, type TemplateOptions } from '../lib/build.ts';
import { tag } from '../lib/parse.ts';
import { absoluteSource } from '../lib/source.ts';

type Options = TemplateOptions & { tag: string };

export const fromImage = defineCommand<Options>({
  name: 'from-image',
  summary: 'build, boot and warm an image, and snapshot it as a template',
  description:
    'SOURCE is a recipe (python), a directory, an OCI layout, a docker-archive tarball or a registry reference; a prefix\nrecipe: dir: oci: docker-archive: docker: says which. A command after -- is run in the guest as part of the warm-up.',
  args: [
    { name: 'source', summary: 'where the root file system comes from', completes: 'file' },
    { name: 'command', summary: 'warm-up command and its arguments', optional: true, variadic: true },
  ],
  options: [
    { flags: '--tag <tag>', summary: 'name of the template', required: true, parse: tag },
    { flags: '--kernel <file>', summary: "guest kernel, in place of the distribution's own", completes: 'file' },
    ...templateOptions,
  ],
  examples: [
    { line: 'forkd from-image python --tag py --warm "import numpy"', summary: 'the built-in recipe' },
    { line: 'forkd from-image docker.io/library/alpine:3 --tag alpine', summary: 'from a registry' },
    { line: 'forkd from-image ./rootfs --tag mine -- /opt/fill-caches', summary: 'a directory, warmed by a command' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  const [source = '', ...command] = args;
  const request: CreateSnapshotRequest = {
    tag: options.tag,
    source: absoluteSource(source, process.cwd()),
    ...(await templateFields(options)),
  };
  if (options.kernel !== undefined) request.kernel = path.resolve(options.kernel);
  if (command.length > 0) request.warm_command = command;
  printTemplate(context, await buildTemplate(context, request));
}
