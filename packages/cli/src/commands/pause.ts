import type { SandboxInfo } from '@forkd/api';
import type { CallOptions, ForkdClient } from '@forkd/sdk';
import { defineCommand, type ArgumentSpec, type Call } from '../command.ts';
import { resolveSandboxes } from '../lib/resolve.ts';

type Change = (client: ForkdClient, id: string, call: CallOptions) => Promise<SandboxInfo>;

const args: readonly ArgumentSpec[] = [
  { name: 'sandbox', summary: 'ids, beginnings of them, or names', variadic: true, completes: 'sandbox' },
];

export const pause = defineCommand({
  name: 'pause',
  summary: 'take the processor from sandboxes, which keep their memory',
  description: 'Nothing in a paused sandbox runs, and it cannot be asked anything until it is resumed.',
  args,
  options: [],
  examples: [{ line: 'forkd pause sb-1f', summary: 'until `forkd resume sb-1f`' }],
  run: (call) => change(call, (client, id, options) => client.pauseSandbox(id, options)),
});

export const resume = defineCommand({
  name: 'resume',
  summary: 'let paused sandboxes go on',
  args,
  options: [],
  examples: [{ line: 'forkd resume sb-1f web', summary: 'two of them' }],
  run: (call) => change(call, (client, id, options) => client.resumeSandbox(id, options)),
});

/** One after the other, so that after a failure it is clear what was done: what has been printed. */
async function change({ context, args: texts }: Call<unknown>, work: Change): Promise<void> {
  const client = await context.client();
  const changed: SandboxInfo[] = [];
  for (const id of await resolveSandboxes(client, texts, context)) {
    changed.push(await work(client, id, { signal: context.signal }));
    if (!context.out.isJson) context.out.line(id);
  }
  if (context.out.isJson) context.out.json(changed);
}
