import { limits } from '@forkd/api/constants';
import { cliVersion } from '../cli-version.ts';
import { defineCommand, type Call } from '../command.ts';
import { integer, wholeSeconds } from '../parse/parse.ts';

interface Options {
  maxSandboxes: number;
  ttl?: number;
  readOnly?: boolean;
}

const SANDBOXES_MAX = 1000;
const SANDBOXES_DEFAULT = 16;
const TTL_SECS_DEFAULT = 4 * 3600;

export const mcp = defineCommand<Options>({
  name: 'mcp',
  summary: 'serve a model the sandboxes as tools',
  description:
    'Speaks the Model Context Protocol on stdin and stdout, for a client that starts this command. It ends with its client.',
  args: [],
  options: [
    {
      flags: '--max-sandboxes <n>',
      summary: 'number of sandboxes that it has started and that still exist',
      parse: integer('--max-sandboxes', 1, SANDBOXES_MAX),
      default: SANDBOXES_DEFAULT,
    },
    {
      flags: '--ttl <time>',
      summary: 'time to live of each sandbox that it starts: 90s, 2h, 1d (default: 4h)',
      parse: wholeSeconds('--ttl', 1, limits.ttlSecsMax),
    },
    { flags: '--read-only', summary: 'offer only tools that change nothing' },
  ],
  examples: [
    { line: 'forkd mcp', summary: 'serve the client that has started this command' },
    { line: 'forkd mcp --read-only', summary: 'let a model look, and not act' },
  ],
  run,
});

async function run({ context, options }: Call<Options>): Promise<void> {
  const { serveStdio } = await import('@forkd/mcp');
  await serveStdio({
    client: await context.client(),
    version: cliVersion(),
    sandboxesMax: options.maxSandboxes,
    ttlSecs: options.ttl ?? TTL_SECS_DEFAULT,
    readOnly: options.readOnly === true,
    signal: context.signal,
  });
}
