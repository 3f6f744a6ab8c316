import type { SandboxInfo } from '@forkd/api';
import type { CallOptions, ForkdClient } from '@forkd/sdk';
import { defineCommand, type ArgumentSpec, type Call } from '../command.ts';
import { resolveSandboxes } from '../parse/resolve.ts';

type Change = (client: ForkdClient, id: string, call: CallOptions) => Promise<SandboxInfo>;

const args: readonly ArgumentSpec[] = [
  { name: 'sandbox', summary: 'ids, names, or beginnings of ids', variadic: true, completes: 'sandbox' },
];

export const pause = defineCommand({
  name: 'pause',
  summary: 'pause sandboxes; memory is kept',
  description: 'Nothing runs in a paused sandbox, and it answers no request until it is resumed.',
  args,
  options: [],
  examples: [{ line: 'forkd pause sb-1f', summary: 'pause until `forkd resume sb-1f`' }],
  run: (call) => change(call, (client, id, options) => client.pauseSandbox(id, options)),
});

export const resume = defineCommand({
  name: 'resume',
  summary: 'resume paused sandboxes',
  args,
  options: [],
  examples: [{ line: 'forkd resume sb-1f web', summary: 'resume two sandboxes' }],
  run: (call) => change(call, (client, id, options) => client.resumeSandbox(id, options)),
});

/** Changes sandboxes one after the other. If one fails, the ids printed so far were changed. */
async function change({ context, args: texts }: Call<unknown>, work: Change): Promise<void> {
  const client = await context.client();
  const changed: SandboxInfo[] = [];
  for (const id of await resolveSandboxes(client, texts, context)) {
    changed.push(await work(client, id, { signal: context.signal }));
    if (!context.out.isJson) context.out.line(id);
  }
  if (context.out.isJson) context.out.json(changed);
}
