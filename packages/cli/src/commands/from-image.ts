import { resolve } from 'node:path';
import type { CreateSnapshotRequest } from '@forkd/api';
import { recipeNames } from '@forkd/api/constants';
import { defineCommand, type Call } from '../command.ts';
import { buildTemplate, printTemplate, templateFields, templateOptions, type TemplateOptions } from '../lib/build.ts';
import { imageOptions } from '../parse/older-options.ts';
import { collect, environment, tag } from '../parse/parse.ts';
import { absoluteSource, copyOf } from '../parse/source.ts';

type Options = TemplateOptions & {
  tag: string;
  env?: string[];
  copy?: string[];
  package?: string[];
  replace?: boolean;
};

export const fromImage = defineCommand<Options>({
  name: 'from-image',
  summary: 'build, boot and warm up an image, and snapshot it as a template',
  description:
    'SOURCE is a recipe (python), a directory, an OCI layout, a docker-archive tarball or a registry reference. A prefix\n(recipe: dir: oci: docker-archive: docker:) says which. A command after -- runs in the guest as part of the warm-up.',
  args: [
    { name: 'source', summary: 'source of the root file system', completes: 'file', offers: recipeNames },
    { name: 'command', summary: 'warm-up command and its arguments', optional: true, variadic: true },
  ],
  options: [
    { flags: '--tag <tag>', summary: 'name of the template', required: true, parse: tag },
    { flags: '--kernel <file>', summary: "guest kernel (default: the distribution's)", completes: 'file' },
    ...templateOptions,
    { flags: '-e, --env <k=v>', summary: 'set a variable of every command; can be repeated', parse: collect },
    { flags: '--copy <src:dst>', summary: 'add a file or the content of a directory; can be repeated', parse: collect },
    {
      flags: '--package <name>',
      summary: 'add a Debian package, or a Python package as pip:NAME; can be repeated',
      parse: collect,
    },
    { flags: '--replace', summary: 'replace the template of this name once the new one is ready' },
    ...imageOptions,
  ],
  examples: [
    { line: 'forkd from-image python --tag py --warm "import numpy"', summary: 'a built-in recipe' },
    {
      line: 'forkd from-image python --tag web --package pip:flask --copy ./app:/srv/app --env PORT=80 --replace',
      summary: 'with a Python package, files and a variable, in place of the template of that name',
    },
    {
      line: 'forkd from-image python --tag net --net none --allow python-packages',
      summary: 'with a network that reaches the package index of Python and nothing else',
    },
    {
      line: 'forkd from-image python --tag app --warm-net python-packages --copy ./app:/srv -- pip install -r /srv/requirements.txt',
      summary: 'a warm-up that reaches the package index, and children that do not',
    },
    { line: 'forkd from-image docker.io/library/alpine:3 --tag alpine', summary: 'an image of a registry' },
    {
      line: 'forkd from-image ./rootfs --tag mine -- /opt/fill-caches',
      summary: 'a directory, warmed up by a command',
    },
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
  if (options.kernel !== undefined) request.kernel = resolve(options.kernel);
  if (command.length > 0) request.warm_command = command;
  if (options.env !== undefined) request.env = environment(options.env, process.env);
  if (options.copy !== undefined) request.copy = options.copy.map((text) => copyOf(text, process.cwd()));
  if (options.package !== undefined) request.packages = options.package;
  if (options.replace === true) request.replace = true;
  printTemplate(context, await buildTemplate(context, request));
}
