import { limits } from '@forkd/api/constants';
import { defineCommand, type Call } from '../command.ts';
import { UsageError } from '../lib/errors.ts';
import { writeBytes } from '../lib/output.ts';
import { integer } from '../lib/parse.ts';
import { resolveSandbox } from '../lib/resolve.ts';

type Options = { follow?: boolean; tail?: number };

export const logs = defineCommand<Options>({
  name: 'logs',
  summary: 'print the console of a sandbox',
  description: 'What its kernel and its agent have written there. The output of a command is had with `forkd attach`.',
  args: [{ name: 'sandbox', summary: 'id, a beginning of it, or name', completes: 'sandbox' }],
  options: [
    { flags: '-f, --follow', summary: 'and what comes after, until Ctrl-C' },
    {
      flags: '--tail <bytes>',
      summary: `its last bytes (default: ${limits.logTailBytesDefault})`,
      parse: integer('--tail', 0, limits.logTailBytesMax),
    },
  ],
  examples: [
    { line: 'forkd logs sb-1f', summary: 'the end of it' },
    { line: 'forkd logs -f --tail 0 sb-1f', summary: 'what comes from now on' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  if (context.out.isJson) throw new UsageError('logs: a console is text, and cannot be had as JSON');
  const client = await context.client();
  const id = await resolveSandbox(client, args[0] ?? '', context);
  const query = {
    ...(options.tail !== undefined && { tail_bytes: options.tail }),
    ...(options.follow && { follow: true }),
  };
  for await (const bytes of client.sandboxLogs(id, query, { signal: context.signal })) {
    await writeBytes(context.out.streams.stdout, bytes);
  }
}
