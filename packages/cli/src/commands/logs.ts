import { limits } from '@forkd/api/constants';
import { defineCommand, type Call } from '../command.ts';
import { UsageError } from '../lib/errors.ts';
import { writeBytes } from '../output/output.ts';
import { visibleChunks } from '../output/visible-chunks.ts';
import { integer } from '../parse/parse.ts';
import { resolveSandbox } from '../parse/resolve.ts';

interface Options {
  follow?: boolean;
  tail?: number;
}

export const logs = defineCommand<Options>({
  name: 'logs',
  summary: 'print the console of a sandbox',
  description:
    'The console has the messages of the guest kernel and of the agent. `forkd attach` prints the output of a command.',
  args: [{ name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' }],
  options: [
    { flags: '-f, --follow', summary: 'keep printing new output, until Ctrl-C' },
    {
      flags: '--tail <bytes>',
      summary: `how many of its last bytes (default: ${limits.logTailBytesDefault})`,
      parse: integer('--tail', 0, limits.logTailBytesMax),
    },
  ],
  examples: [
    { line: 'forkd logs sb-1f', summary: 'the end of the console' },
    { line: 'forkd logs -f --tail 0 sb-1f', summary: 'new output only' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  if (context.out.isJson) throw new UsageError('logs: A console is text and cannot be printed as JSON.');
  const client = await context.client();
  const id = await resolveSandbox(client, args[0] ?? '', context);
  const query = {
    ...(options.tail !== undefined && { tail_bytes: options.tail }),
    ...(options.follow && { follow: true }),
  };
  const { stdout } = context.out.streams;
  const chunks = client.sandboxLogs(id, query, { signal: context.signal });
  for await (const bytes of stdout.isTTY ? visibleChunks(chunks) : chunks) await writeBytes(stdout, bytes);
}
