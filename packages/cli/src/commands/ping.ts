import { defineCommand, type Call } from '../command.ts';
import { formatMs } from '../output/text.ts';
import { addressOptions } from '../parse/older-options.ts';
import { resolveSandbox } from '../parse/resolve.ts';

export const ping = defineCommand({
  name: 'ping',
  summary: 'check that the agent in a sandbox answers',
  args: [{ name: 'sandbox', summary: 'id, name, or the beginning of an id', completes: 'sandbox' }],
  options: addressOptions,
  examples: [{ line: 'forkd ping sb-1f', summary: 'print the time of a round trip' }],
  run,
});

async function run({ context, args }: Call<Record<string, unknown>>): Promise<void> {
  const client = await context.client();
  const sandboxId = await resolveSandbox(client, args[0] ?? '', context);
  const startMs = performance.now();
  const answer = await client.ping(sandboxId, { signal: context.signal });
  const roundTripMs = performance.now() - startMs;
  if (context.out.isJson) context.out.json({ ...answer, round_trip_ms: roundTripMs });
  else context.out.line(`pong from ${sandboxId} in ${formatMs(roundTripMs)}`);
}
