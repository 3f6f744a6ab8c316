import { Sandbox } from '@forkd/sdk';
import { defineCommand, type Call } from '../command.ts';
import { CommandError, UsageError } from '../lib/errors.ts';
import { pickSandbox } from '../lib/resolve.ts';

type Options = { all?: boolean };

export const kill = defineCommand<Options>({
  name: 'kill',
  summary: 'end sandboxes',
  args: [{ name: 'sandbox', summary: 'ids, or beginnings of them', optional: true, variadic: true }],
  options: [{ flags: '--all', summary: 'all that run' }],
  examples: [
    { line: 'forkd kill sb-1f sb-2c', summary: 'two of them' },
    { line: 'forkd kill --all', summary: 'every one' },
  ],
  run,
});

async function run({ context, args, options }: Call<Options>): Promise<void> {
  if (options.all ? args.length > 0 : args.length === 0) {
    throw new UsageError('kill: give the ids of sandboxes, or --all');
  }
  const client = await context.client();
  const { signal } = context;
  const running = (await client.listSandboxes({ signal })).map((sandbox) => sandbox.id);
  const ids = options.all ? running : [...new Set(args.map((arg) => pickSandbox(running, arg)))];
  const results = await Promise.allSettled(ids.map((id) => Sandbox.kill(id, { client, signal })));
  const ended = ids.filter((_, index) => results[index]?.status === 'fulfilled');
  if (context.out.isJson) context.out.json({ killed: ended });
  else for (const id of ended) context.out.line(id);
  const failed = results.filter((result) => result.status === 'rejected');
  if (failed.length === 1) throw failed[0]?.reason;
  if (failed.length > 1) {
    throw new CommandError('guest_unreachable', `${failed.length} sandboxes could not be ended: ${failed[0]?.reason}`);
  }
}
